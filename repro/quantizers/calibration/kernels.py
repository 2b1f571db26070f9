"""Compiled loops of the calibrators: counting into histograms, and the searches over them by prefix sums."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

TIE = 1e-9
"""Divergences (in nats) and squared errors (relative) nearer than this are equal; of equals the least clipping wins."""
FEW = 8192
"""Values up to which a row is counted straight into its bins."""
TOGETHER = 256
"""Values whose bins are found in one vectorised loop before they are counted."""


@njit(nogil=True, cache=True)
def count(
    values: np.ndarray, runs: np.ndarray, length: int, scale: np.ndarray, signed: bool, counts: np.ndarray
) -> None:
    """Add to `counts` (rows, bins) int64 the bins `floor(|x| * scale)` of `values` (rows, n) float32.

    Counted are the `length` values of each row from every index in `runs` on. `scale` (rows,) float32 is one over each
    row's bin width, a power of two, so that the product is exact. Unsigned: `max(x, 0)` in place of `|x|`. Every bin
    has to exist. Four partial histograms keep runs of one value, the zeros behind a ReLU, from waiting on a single
    counter; each is uint32 and empty again before it could overflow.
    """
    bins = counts.shape[1]
    few = len(runs) * length <= FEW
    part, places = np.zeros((4, bins), np.uint32), np.empty(TOGETHER, np.int32)
    first, second, third, fourth = part[0], part[1], part[2], part[3]
    lowest = np.float32(-np.inf if signed else 0)
    for row in range(len(values)):
        factor = scale[row]
        for run in runs:
            for start in range(run, run + length, TOGETHER):
                n = min(TOGETHER, run + length - start)
                some = values[row, start : start + n]
                for i in range(n):
                    places[i] = np.int32(abs(max(some[i], lowest)) * factor)
                if few:
                    for i in range(n):
                        counts[row, np.uint32(places[i])] += 1
                else:
                    for i in range(0, n - 3, 4):
                        first[np.uint32(places[i])] += np.uint32(1)
                        second[np.uint32(places[i + 1])] += np.uint32(1)
                        third[np.uint32(places[i + 2])] += np.uint32(1)
                        fourth[np.uint32(places[i + 3])] += np.uint32(1)
                    for i in range(n - n % 4, n):
                        first[np.uint32(places[i])] += np.uint32(1)
        if not few:
            for b in range(bins):
                counts[row, b] += np.int64(first[b]) + second[b] + third[b] + fourth[b]
            part[:] = 0


@njit(nogil=True, cache=True)
def entropy(counts: np.ndarray, levels: int, zeros_kept: bool = True) -> np.ndarray:
    """For each row of `counts` (rows, bins), the number of bins m that the KL search keeps; 0 where none can be.

    `levels` is a power of two. Unless `zeros_kept`, the first bin counts as many as the second.

    With c the counts, N their sum, M those of the first i bins, S_k the count and n_k the occupied bins of level k:

        N KL_i = sum_{j < i-1} c_j ln c_j + p ln p - sum_k S_k ln(S_k / n_k) - (N - M) ln(S_last / n_last) + N ln(M / N)

    with p = c_{i-1} + N - M: prefix sums of c, of c ln c and of occupied bins give all terms, a level each. A
    candidate is passed over when the divergence of {last level, all others}, which is a lower bound, is already larger.
    """
    rows, bins = counts.shape
    kept = np.zeros(rows, np.int64)
    mass, occupied, entropies = np.zeros(bins + 1, np.int64), np.zeros(bins + 1, np.int64), np.zeros(bins + 1)
    divergence, c = np.empty(bins + 1), np.empty(bins, np.int64)
    shift, logs = round(math.log2(levels)), np.log(np.maximum(np.arange(bins + 1), 1))
    for row in range(rows):
        c[:] = counts[row]
        if not zeros_kept:
            c[0] = c[1]
        top = 0
        for j in range(bins):
            mass[j + 1] = mass[j] + c[j]
            occupied[j + 1] = occupied[j] + (c[j] > 0)
            entropies[j + 1] = entropies[j] + (c[j] * math.log(c[j]) if c[j] else 0.0)
            top = j + 1 if c[j] else top
        total = mass[top]
        divergence[:] = np.inf
        best = np.inf
        for i in range(top, levels - 1, -1):
            if c[i - 1] == 0:
                continue
            inside, outside = mass[i], total - mass[i]
            s = inside - mass[((levels - 1) * i + levels - 1) >> shift]
            bound = (s + outside) / total * math.log((s + outside) / s * (inside / total))
            bound += (inside - s) / total * math.log(inside / total)
            if bound > best + TIE:
                continue
            cross, first = 0.0, 0
            for k in range(1, levels + 1):
                end = (k * i + levels - 1) >> shift
                s = mass[end] - mass[first]
                if s:
                    ratio = (logs[s] if s <= bins else math.log(s)) - logs[occupied[end] - occupied[first]]
                    cross += (s + (outside if k == levels else 0)) * ratio
                first = end
            last = c[i - 1] + outside
            divergence[i] = (entropies[i - 1] + last * math.log(last) - cross) / total + math.log(inside / total)
            best = min(best, divergence[i])
        for i in range(top, levels - 1, -1):
            if divergence[i] <= best + TIE and divergence[i] < np.inf:
                kept[row] = i
                break
    return kept


@njit(nogil=True, cache=True)
def squared_error(counts: np.ndarray, largest: np.ndarray, q: int, candidates: int) -> np.ndarray:
    """For each row, the i in 1..`candidates` whose threshold `largest * i / candidates` has the least squared error.

    `largest` (rows,) is in bins. Every bin stands for its centre x; with step s = threshold / q, and level k from bin
    b_k = ceil((k - 1/2) s - 1/2) on, prefix sums A of c and B of c x give

        error = sum c x^2 - 2 s [q B_all - sum_{k=1..q} B(b_k)] + s^2 [q^2 A_all - sum_{k=1..q} (2k - 1) A(b_k)]

    The search goes downward and ends when what is clipped alone costs more than the best.
    """
    rows, bins = counts.shape
    found = np.zeros(rows, np.int64)
    a, b, d = np.zeros(bins + 1), np.zeros(bins + 1), np.zeros(bins + 1)
    errors = np.empty(candidates + 1)
    for row in range(rows):
        for j in range(bins):
            x = j + 0.5
            a[j + 1] = a[j] + counts[row, j]
            b[j + 1] = b[j] + counts[row, j] * x
            d[j + 1] = d[j] + counts[row, j] * x * x
        errors[:] = np.inf
        best = np.inf
        for i in range(candidates, 0, -1):
            limit = largest[row] * i / candidates
            s = limit / q
            edge = min(bins, max(0, math.ceil(limit - 0.5)))
            clipped = (d[bins] - d[edge]) - 2 * limit * (b[bins] - b[edge]) + limit * limit * (a[bins] - a[edge])
            if clipped > best * (1 + TIE):
                break
            first, second = q * b[bins], float(q) * q * a[bins]
            for k in range(1, q + 1):
                start = min(bins, max(0, math.ceil((k - 0.5) * s - 0.5)))
                first -= b[start]
                second -= (2 * k - 1) * a[start]
            errors[i] = d[bins] - 2 * s * first + s * s * second
            best = min(best, errors[i])
        for i in range(candidates, 0, -1):
            if errors[i] <= best * (1 + TIE):
                found[row] = i
                break
    return found
