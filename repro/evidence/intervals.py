"""Intervals for means, differences and ratios over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np

K = TypeVar("K")


class Interval(NamedTuple):
    """An estimate, its interval, and the spread and number of the values behind it.

    `low` and `high` are `None`, and `sd` too, where one value alone says nothing of the spread.
    """

    estimate: float
    low: float | None
    high: float | None
    sd: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval, and 0 lies outside."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def span(self, form: str = "+.2f") -> str:
        """The interval as text, empty where there is none.

        >>> Interval(0.4, 0.1, 0.7, 1.0, 9).span(), Interval(0.4, None, None, None, 1).span()
        ('+0.10 to +0.70', '')
        """
        return "" if self.low is None or self.high is None else f"{self.low:{form}} to {self.high:{form}}"

    def text(self, form: str = "+.2f") -> str:
        """The estimate, and the interval in brackets where there is one.

        >>> Interval(0.4, 0.1, 0.7, 1.0, 9).text(".1f")
        '0.4 (0.1 to 0.7)'
        """
        return f"{self.estimate:{form}}" + (f" ({span})" if (span := self.span(form)) else "")


def t_quantile(p: float, df: float) -> float:
    """The p-quantile of Student's t distribution with `df` degrees of freedom (need not be whole).

    >>> round(t_quantile(0.975, 2), 4)
    4.3027
    """
    from scipy.special import stdtrit  # 0.15 s that commands without intervals need not wait for

    return float(stdtrit(df, p))


def mean_sd(x: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (divisor n - 1), both correctly rounded and so the same on every machine.

    The standard deviation of a single value is `None`. Raises `ValueError` when `x` is empty.

    >>> mean_sd([1.0, 2.0, 6.0])
    (3.0, 2.6457513110645907)
    """
    return statistics.mean(x), statistics.stdev(x) if len(x) > 1 else None


def t_interval(x: Sequence[float], confidence: float = 0.95) -> Interval:
    """mean -+ t * s / sqrt(n), two-sided, t the (1 + confidence)/2 quantile with n - 1 degrees of freedom.

    `x` holds one value per seed. Raises `ValueError` when `x` is empty.

    >>> mean, low, high, sd, n = t_interval([1.0, 2.0, 3.0])
    >>> round(low, 4), mean, round(high, 4), sd, n
    (-0.4841, 2.0, 4.4841, 1.0, 3)
    """
    mean, sd = mean_sd(x)
    if sd is None:
        return Interval(mean, None, None, None, 1)
    half = t_quantile((1 + confidence) / 2, len(x) - 1) * sd / math.sqrt(len(x)) if sd else 0.0
    return Interval(mean, mean - half, mean + half, sd, len(x))


def equivalence_interval(
    ours: Interval, y: float, h: float, published_sd: float | None = None, published_n: int | None = None
) -> Interval:
    """(ours - y) -+ [h + t * sqrt(s^2/n + s_p^2/n_p)], t the .95 quantile: two one-sided tests at 5 % each.

    `ours` gives the estimate with its s and n, from `t_interval` or `ratio_of_means`; `y` is the published value
    and `h` half its last digit. With a published spread `published_sd` = s_p over `published_n` = n_p runs, the
    degrees of freedom are Welch's; without, n_p = 1, s_p = s, and they are n - 1. `sd` is that of ours; there is no
    interval for a single seed.

    Welch's number is capped at n_p - 1. Uncapped it can rise with s faster than the standard error does (n = 20,
    n_p = 2), and noisier seeds would give a shorter interval. Capped, it never rises when s rises or n falls.

    Raises `ValueError` when only one of `published_sd` and `published_n` is given, or a spread over fewer than two
    runs.

    >>> difference, low, high, sd, n = equivalence_interval(t_interval([1.0, 2.0, 3.0]), y=2.0, h=0.05)
    >>> round(high, 4), sd  # .05 + 2.92 * sqrt(1/3 + 1)
    (3.4217, 1.0)
    """
    if (published_sd is None) != (published_n is None):
        raise ValueError("published_sd and published_n go together")
    if published_n is not None and published_n < 2:
        raise ValueError(f"no spread over {published_n} runs")
    difference, sd, n = ours.estimate - y, ours.sd, ours.n
    if sd is None or n < 2:
        return Interval(difference, None, None, None, n)
    if published_sd is None or published_n is None:
        variance, df = sd**2 / n + sd**2, n - 1.0
    else:
        a, b = sd**2 / n, published_sd**2 / published_n
        variance = a + b
        share = a / variance if variance else 0.0
        welch = 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (published_n - 1))
        df = min(welch, published_n - 1)
    half = h + (t_quantile(0.95, df) * math.sqrt(variance) if variance else 0.0)
    return Interval(difference, difference - half, difference + half, sd, n)


class Pairing(NamedTuple):
    """What pairing two arms by seed gains: measured, not assumed."""

    n: int
    """Seeds that both arms have."""
    correlation: float | None
    """Between the arms, over seeds; `None` with fewer than three seeds or where an arm does not vary."""
    variance_ratio: float | None
    """Var(a - b) / (Var a + Var b): below 1, pairing helps; `None` where the correlation is."""


def pairing(a: Mapping[int, float], b: Mapping[int, float]) -> Pairing:
    """Correlation and variance ratio of two arms, each a mapping from seed to value, over the seeds they share.

    >>> n, correlation, ratio = pairing({0: 1.0, 1: 2.0, 2: 3.0}, {2: 3.5, 1: 2.5, 0: 1.5, 7: 0.0})
    >>> n, round(correlation, 12), ratio
    (3, 1.0, 0.0)
    """
    seeds = sorted(a.keys() & b.keys())
    x, y = [a[seed] for seed in seeds], [b[seed] for seed in seeds]
    if len(seeds) < 3 or min(x) == max(x) or min(y) == max(y):
        return Pairing(len(seeds), None, None)
    difference = statistics.variance([p - q for p, q in zip(x, y, strict=True)])
    ratio = difference / (statistics.variance(x) + statistics.variance(y))
    return Pairing(len(seeds), statistics.correlation(x, y), ratio)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Interval:
    """t interval of the mean of a - b over the seeds that both arms have. Raises `ValueError` where there are none.

    >>> paired_difference({0: 3.0, 1: 4.0}, {0: 1.0, 1: 2.0, 2: 0.0})
    Interval(estimate=2.0, low=2.0, high=2.0, sd=0.0, n=2)
    """
    return t_interval([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())], confidence)


def ratio_of_means(
    numerators: Sequence[Sequence[float]],
    denominators: Sequence[Sequence[float]],
    scale: float = 1.0,
    confidence: float = 0.95,
) -> Interval:
    """theta = scale / k * sum over j of mean(a_j) / mean(b_j), with a t interval by the delta method over paired seeds.

    `numerators` a and `denominators` b have shape `(n seeds, k columns)`; row i of both is of one seed. To first
    order seed i moves theta by `z_i = scale / k * sum_j (a_ij - R_j b_ij) / mean(b_j)`, R_j the ratio of column j:
    the interval is theta -+ t_{n-1} * sd(z) / sqrt(n), and `sd` is sd(z). With scale = 100 theta
    is Delta_B. Raises `ValueError` for other shapes or a denominator whose mean is 0.

    >>> theta, low, high, sd, n = ratio_of_means([[9.0], [11.0]], [[20.0], [20.0]], scale=100)
    >>> theta, round(sd, 4), n  # sd of 100 * a / 20
    (50.0, 7.0711, 2)
    """
    theta, z = _ratio(numerators, denominators, scale)
    _, low, high, sd, n = t_interval(z, confidence)
    if low is None or high is None:
        return Interval(theta, None, None, None, n)
    half = (high - low) / 2
    return Interval(theta, theta - half, theta + half, sd, n)


def ratio_by_seed(
    numerators: Sequence[Sequence[float]], denominators: Sequence[Sequence[float]], scale: float = 1.0
) -> list[float]:
    """`theta + z_i` of `ratio_of_means`: a value per seed, whose mean and t interval are those of theta.

    Differences of two such ratios over the same seeds then have the interval of the delta method too.

    >>> ratio_by_seed([[9.0], [11.0]], [[20.0], [20.0]], scale=100)
    [45.0, 55.0]
    """
    theta, z = _ratio(numerators, denominators, scale)
    return [theta + z_i for z_i in z]


def _ratio(
    numerators: Sequence[Sequence[float]], denominators: Sequence[Sequence[float]], scale: float
) -> tuple[float, list[float]]:
    import numpy as np

    a, b = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if a.ndim != 2 or a.shape != b.shape or 0 in a.shape:
        raise ValueError(f"expected two arrays of one shape (seeds, columns), got {a.shape} and {b.shape}")
    mean_a, mean_b = _means(a), _means(b)
    if not np.all(mean_b):
        raise ValueError("a denominator has mean 0")
    ratio = mean_a / mean_b
    theta = scale * statistics.mean(ratio.tolist())
    return theta, (scale * ((a - ratio * b) / mean_b).mean(axis=1)).tolist()


def _means(x: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.array([statistics.mean(column) for column in x.T.tolist()])


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rho: the correlation of the ranks of x and y, equal values sharing their mean rank.

    NaN where x or y has one value only. (scipy.stats has it too, and takes a second to import.)

    >>> rank_correlation([1, 2, 3, 4], [10, 30, 20, 40])
    0.8
    """
    import numpy as np

    def ranks(values: Sequence[float]) -> np.ndarray:
        v = np.asarray(values, np.float64)
        return (v[:, None] > v).sum(1) + ((v[:, None] == v).sum(1) + 1) / 2

    with np.errstate(invalid="ignore", divide="ignore"):
        return round(float(np.corrcoef(ranks(x), ranks(y))[0, 1]), 12)


def rank_agreement(ours: Mapping[K, float], theirs: Mapping[K, float]) -> Interval | None:
    """Spearman's rho of the values of what both have, with its 95 % interval.

    None for fewer than four, or where one side has one value only; no interval where |rho| is 1.

        tanh(artanh rho -+ 1.96 sqrt((1 + rho^2 / 2) / (n - 3)))

    Source: Bonett and Wright 2000. Noise in the values draws rho towards 0.

    >>> rank_agreement({"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 10, "b": 30, "c": 20, "d": 40}).text()
    '+0.80 (-0.82 to +1.00)'
    """
    common = [key for key in theirs if key in ours]
    if len(common) < 4:
        return None
    rho = rank_correlation([ours[key] for key in common], [theirs[key] for key in common])
    if not abs(rho) < 1:
        return Interval(rho, None, None, None, len(common)) if math.isfinite(rho) else None
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / (len(common) - 3))
    return Interval(rho, math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half), None, len(common))


FEWEST_FLIPPED = 6
"""Seeds from which sign flips of whole rows give intervals at .95."""
EXACT_UP_TO = 12
"""Seeds up to which all sign flips are tried."""

FLIPS = 9_999
"""Sign flips that are drawn beyond that."""


def simultaneous(
    differences: Sequence[Sequence[float]], confidence: float = 0.95, rng: np.random.Generator | None = None
) -> list[Interval]:
    """d_j -+ c * s_j / sqrt(n) for all arms j at once: all k intervals cover together with `confidence`.

    `differences` has shape `(n seeds, k arms)`: arm j minus the control on seed i. c is the `confidence` quantile of
    max_j |t_j| over sign flips of whole seed rows, of the rows' deviations from the means d (so that the intervals
    move with the data): all 2^(n-1) flips for n <= 12, otherwise 9,999 drawn from `rng`. Flipping rows keeps the
    correlation between the arms. Of B flips the ceil(confidence * (B + 1))-th smallest is taken: c is unbounded,
    and `low` and `high` are `None`, where flips are too few (n <= 5 at .95). An arm that does not vary gets an
    interval of length 0.

    Raises `ValueError` for another shape and for n > 12 without `rng`.

    >>> simultaneous([[1.0], [2.0], [3.0]])
    [Interval(estimate=2.0, low=None, high=None, sd=1.0, n=3)]
    """
    import numpy as np

    x = np.asarray(differences, np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"expected shape (seeds, arms), got {x.shape}")
    n = len(x)
    mean = _means(x)
    residuals = x - mean
    s = np.sqrt((residuals**2).sum(axis=0) / max(n - 1, 1)) * (np.ptp(x, axis=0) > 0)
    largest = np.sort(_studentized(_flips(n, rng), residuals[:, s > 0]).max(axis=1, initial=0.0))
    rank = math.ceil(confidence * (len(largest) + 1))
    c = largest[rank - 1] if rank <= len(largest) else math.inf
    half = np.where(s > 0, c, 0.0) * np.where(s > 0, s, 1.0) / math.sqrt(n)
    bounded = (np.isfinite(half) & (n > 1)).tolist()
    return [
        Interval(d, d - h if ok else None, d + h if ok else None, sd if n > 1 else None, n)
        for d, h, sd, ok in zip(mean.tolist(), half.tolist(), s.tolist(), bounded, strict=True)
    ]


def _flips(n: int, rng: np.random.Generator | None) -> np.ndarray:
    """Signs, shape `(flips, n)`. Tried in full, the last seed keeps its sign: flipping all changes no |t|."""
    import numpy as np

    if n <= EXACT_UP_TO:
        bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
        return 1.0 - 2.0 * bits
    if rng is None:
        raise ValueError(f"more than {EXACT_UP_TO} seeds need a generator to draw sign flips from")
    return rng.choice(np.array([-1.0, 1.0]), size=(FLIPS, n))


def _studentized(flips: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """|t| of every flip and arm; flipping signs leaves the sum of squares as it is."""
    import numpy as np

    n = len(residuals)
    mean = flips @ residuals / n
    squares = (residuals**2).sum(axis=0)
    rest = np.maximum(squares - n * mean**2, 0.0)
    rest[rest <= 1e-12 * squares] = 0.0  # what rounding leaves of zero
    with np.errstate(divide="ignore"):
        return np.abs(mean) / np.sqrt(rest / (n - 1) / n)


def dunnett(arms: Sequence[Sequence[float]], control: Sequence[float], confidence: float = 0.95) -> list[Interval]:
    """Dunnett's intervals of mean(arm) - mean(control): all arms against one control, covering together.

        mean(arm) - mean(control) -+ c * s * sqrt(1/n_j + 1/n_0)

    Arms are independent samples of one variance, whose pooled standard deviation s, with v degrees of freedom, is `sd`;
    `n` is the arm's size. c is the `confidence` quantile of max_j |T_j|, T of the multivariate t distribution with
    correlations b_i b_j, b_j = sqrt(n_j / (n_0 + n_j)).

    Source: Dunnett, J. Amer. Stat. Assoc. 50 (1955). Raises `ValueError` when a sample has fewer than two values or
    none of them varies. (scipy.stats has it too, and takes five seconds.)
    """
    samples = [*arms, control]
    if min(map(len, samples)) < 2:
        raise ValueError("every sample needs at least two values")
    within = sum(statistics.variance(sample) * (len(sample) - 1) for sample in samples)
    if not within:
        raise ValueError("no sample varies")
    df = sum(map(len, samples)) - len(samples)
    pooled = math.sqrt(within / df)
    c = dunnett_quantile(confidence, [len(arm) / (len(control) + len(arm)) for arm in arms], df)
    middle = statistics.mean(control)
    found = []
    for arm in arms:
        d, half = statistics.mean(arm) - middle, c * pooled * math.sqrt(1 / len(arm) + 1 / len(control))
        found.append(Interval(d, d - half, d + half, pooled, len(arm)))
    return found


NODES = 128
"""Of the quadrature in each of two directions: c to about 1e-4 at six degrees of freedom, to 1e-6 at hundreds."""


def dunnett_quantile(p: float, squares: Sequence[float], df: int) -> float:
    """c with P(max_j |T_j| <= c) = p, T multivariate t with `df` degrees of freedom and correlations b_i b_j.

        P = int f(s) int phi(z) prod_j [Phi((b_j z + c s) / r_j) - Phi((b_j z - c s) / r_j)] dz ds,  r_j^2 = 1 - b_j^2

    phi and Phi are those of the normal distribution, f the density of sqrt(chi^2_df / df); `squares` are the b_j^2,
    1/2 for arms as large as the control. Gauss-Legendre quadrature over both. Source: Dunnett 1955, eq. 5.

    >>> round(dunnett_quantile(0.95, [0.5] * 2, 6), 2)  # his table 2a
    2.86
    """
    import numpy as np
    from scipy.special import chdtri, ndtr, ndtri

    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    u, w = (nodes + 1) / 2, weights / 2
    square, counts = np.unique(np.asarray(squares, np.float64), return_counts=True)
    b, r = np.sqrt(square), np.sqrt(1 - square)
    z, s = ndtri(u)[:, None, None], np.sqrt(chdtri(df, u) / df)[None, :, None]

    def covered(c: float) -> float:
        inside = ndtr((b * z + c * s) / r) - ndtr((b * z - c * s) / r)
        return float(w @ np.prod(inside**counts, axis=2) @ w)

    low, high = 0.0, 1.0
    while covered(high) < p:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if covered(middle) < p else (low, middle)
    return high
