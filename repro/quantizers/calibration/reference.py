"""The calibrators in NumPy and plain loops, meant to be obviously right: what the fast ones are compared with.

Each takes the histogram of one tensor or channel: `counts` (bins,), bin j holding the magnitudes from j to j + 1 times
`width`; and gives the threshold that a range ends at. Nothing here is shared with what it judges.
"""

from __future__ import annotations

import math

import numpy as np


def histogram(x: np.ndarray, bins: int = 2048, signed: bool = True) -> tuple[np.ndarray, float]:
    """Counts (bins,) and bin width of all values at once: the least power of two with `largest < bins * width`.

    >>> histogram(np.array([0.5, -0.9, 3.0]), bins=4)
    (array([2, 0, 0, 1]), 1.0)
    """
    magnitudes = np.abs(x.astype(np.float64).ravel()) if signed else np.maximum(x.astype(np.float64).ravel(), 0)
    width = 2.0**-120
    while magnitudes.max() >= bins * width:
        width *= 2
    return np.bincount(np.floor(magnitudes / width).astype(np.int64), minlength=bins), width


def percentile(counts: np.ndarray, width: float, largest: float, percent: float = 99.99) -> float:
    """Upper edge of the bin that holds the ceil(N percent / 100)-th smallest of N values, `largest` at most."""
    rank, seen = math.ceil(int(counts.sum()) * percent / 100), 0
    for j, count in enumerate(counts.tolist()):
        seen += count
        if seen >= rank:
            return min((j + 1) * width, largest)
    raise AssertionError("unreachable: the rank is at most the number of values")


def entropy(counts: np.ndarray, width: float, largest: float, levels: int) -> float:
    """The published search, step by step: see `calibrators.entropy`."""
    bins = counts.tolist()
    while bins and bins[-1] == 0:
        bins.pop()
    divergence = {i: kl_divergence(bins, i, levels) for i in range(levels, len(bins) + 1)}
    least = min(divergence.values(), default=math.inf)
    if least == math.inf:
        return largest
    m = max(i for i, d in divergence.items() if d <= least + 1e-9)
    return min((m + 0.5) * width, largest)


def kl_divergence(bins: list[int], i: int, levels: int) -> float:
    """KL divergence of the first i bins, clipped, from what levels make of them; infinite where only Q is empty.

    The slide's example, 8 bins into 2 levels: q = 6/3 in its occupied bins, then 16/4.

    >>> round(kl_divergence([1, 0, 2, 3, 5, 3, 1, 7], 8, 2), 6)
    0.150315
    """
    p = [float(count) for count in bins[:i]]
    p[i - 1] += sum(bins[i:])
    members: list[list[int]] = [[] for _ in range(levels)]
    for j in range(i):
        members[j * levels // i].append(j)
    q = [0.0] * i
    for level in members:
        occupied = [j for j in level if bins[j] > 0]
        counts = sum(bins[j] for j in level)
        for j in occupied:
            q[j] = counts / len(occupied)
    sum_p, sum_q = math.fsum(p), math.fsum(q)
    terms = []
    for pj, qj in zip(p, q, strict=True):
        if pj > 0:
            if qj == 0:
                return math.inf
            terms.append(pj / sum_p * math.log((pj / sum_p) / (qj / sum_q)))
    return math.fsum(terms)


def squared_error(counts: np.ndarray, width: float, largest: float, q: int, candidates: int = 128) -> float:
    """The threshold `largest * i / candidates` of least squared error on bin centres, codes up to q."""
    x = (np.arange(len(counts)) + 0.5) * width
    errors = {}
    for i in range(1, candidates + 1):
        threshold = largest * i / candidates
        step = threshold / q
        values = np.minimum(np.floor(x / step + 0.5), q) * step
        errors[i] = math.fsum(counts * (x - values) ** 2)
    least = min(errors.values())
    return largest * max(i for i, error in errors.items() if error <= least * (1 + 1e-9)) / candidates
