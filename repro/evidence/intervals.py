"""Intervals for means, differences and ratios over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """An estimate, its interval, and the spread and number of the values behind it.

    `low` and `high` are `None`, and `sd` too, where one value alone says nothing of the spread.
    """

    estimate: float
    low: float | None
    high: float | None
    sd: float | None
    n: int


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
    ours: Sequence[float], y: float, h: float, published_sd: float | None = None, published_n: int | None = None
) -> Interval:
    """(mean - y) -+ [h + t * sqrt(s^2/n + s_p^2/n_p)], t the .95 quantile: two one-sided tests at 5 % each.

    `ours` holds one value per seed, `y` is the published value and `h` half its last digit. With a published spread
    `published_sd` = s_p over `published_n` = n_p runs, the degrees of freedom are Welch's; without, n_p = 1,
    s_p = s, and they are n - 1. `sd` is that of ours; no interval for a single seed.

    Welch's number is capped at n_p - 1. Uncapped it can rise with s faster than the standard error does (n = 20,
    n_p = 2), and noisier seeds would give a shorter interval. Capped, it never rises when s rises or n falls.

    Raises `ValueError` when `ours` is empty, when only one of `published_sd` and `published_n` is given, and when a
    spread over fewer than two runs is.

    >>> difference, low, high, sd, n = equivalence_interval([1.0, 2.0, 3.0], y=2.0, h=0.05)
    >>> round(high, 4), sd  # .05 + 2.92 * sqrt(1/3 + 1)
    (3.4217, 1.0)
    """
    if (published_sd is None) != (published_n is None):
        raise ValueError("published_sd and published_n go together")
    if published_n is not None and published_n < 2:
        raise ValueError(f"no spread over {published_n} runs")
    mean, sd = mean_sd(ours)
    n = len(ours)
    if sd is None:
        return Interval(mean - y, None, None, None, 1)
    if published_sd is None or published_n is None:
        variance, df = sd**2 / n + sd**2, n - 1.0
    else:
        a, b = sd**2 / n, published_sd**2 / published_n
        variance = a + b
        welch = variance**2 / (a**2 / (n - 1) + b**2 / (published_n - 1)) if variance else math.inf
        df = min(welch, published_n - 1)
    half = h + (t_quantile(0.95, df) * math.sqrt(variance) if variance else 0.0)
    return Interval(mean - y, mean - y - half, mean - y + half, sd, n)
