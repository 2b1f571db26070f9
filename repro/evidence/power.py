"""How many seeds it takes to see an effect of a given size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from repro.evidence.intervals import t_quantile

if TYPE_CHECKING:
    import numpy as np

MOST = 1_000_000
"""Seeds at which the search ends."""


class Design(NamedTuple):
    """A comparison of arms over seeds as it was recorded: what planning more of it needs to know."""

    name: str
    scale: str
    sd: float
    """Standard deviation over seeds of an arm's difference to the control."""
    n: int
    """Seeds that it was measured on."""
    comparisons: int
    """Arms that are compared with the control at once."""
    seconds: float
    """Of one core, for one seed of all arms and what they start from."""
    effect: float
    """Worth seeing: the published one, or where nothing is published the margin."""
    fewest: int = 2
    """Seeds below which the comparison has no interval."""


def power(n: int, effect: float, sd: float, confidence: float = 0.95, comparisons: int = 1) -> float:
    """Probability that a two-sided paired t test over n seeds sees a true difference `effect`.

        E Phi(d - t S / sd) + Phi(-d - t S / sd),   d = effect sqrt(n) / sd

    with (n - 1) S^2 / sd^2 chi-squared of n - 1 degrees and t the quantile of (1 - confidence) / comparisons
    (Bonferroni): the tails of a noncentral t distribution, which libraries give as NaN where one is tiny. Raises
    `ValueError` for fewer than two seeds or an sd that is not positive.

    >>> round(power(20, effect=0.5, sd=0.7), 2)
    0.86
    """
    from scipy.special import ndtr

    limit, shift = _quantile(n, sd, confidence, comparisons) * _spreads(n), effect * math.sqrt(n) / sd
    return float((ndtr(shift - limit) + ndtr(-shift - limit)).mean())


def equivalence_power(n: int, margin: float, sd: float, confidence: float = 0.95, comparisons: int = 1) -> float:
    """Probability that the paired interval over n seeds lies within -+ margin where the true difference is 0.

        E max(0, 2 Phi((margin - t S / sqrt(n)) sqrt(n) / sd) - 1)

    with S and t as in `power`, whose errors it raises.

    >>> round(equivalence_power(20, margin=0.5, sd=0.7), 2)
    0.72
    """
    import numpy as np
    from scipy.special import ndtr

    limit = _quantile(n, sd, confidence, comparisons) * _spreads(n)
    return float(np.maximum(0, 2 * ndtr(margin * math.sqrt(n) / sd - limit) - 1).mean())


def _spreads(n: int, points: int = 2000) -> np.ndarray:
    """S / sd of n seeds at equally likely points: the mean over them is an expected value."""
    import numpy as np
    from scipy.special import gammaincinv

    return np.sqrt(2 * gammaincinv((n - 1) / 2, (np.arange(points) + 0.5) / points) / (n - 1))


def _quantile(n: int, sd: float, confidence: float, comparisons: int) -> float:
    if n < 2:
        raise ValueError(f"{n} seeds: a spread needs two")
    if not sd > 0:
        raise ValueError(f"sd={sd}: give a positive one")
    return t_quantile(1 - (1 - confidence) / (2 * comparisons), n - 1)


def seeds_needed(
    effect: float,
    sd: float,
    wanted: float = 0.8,
    confidence: float = 0.95,
    comparisons: int = 1,
    chance: Callable[..., float] = power,
    fewest: int = 2,
) -> int:
    """The smallest number of seeds, `fewest` or more, whose `chance` is at least `wanted`.

    Raises `ValueError` for an effect of 0, and for one that a million seeds do not show.

    >>> seeds_needed(0.5, 0.7), seeds_needed(0.5, 0.7, comparisons=17), seeds_needed(0.5, 0.7, chance=equivalence_power)
    (18, 33, 23)
    """
    if not effect:
        raise ValueError("effect=0: no number of seeds shows it")
    high = 2
    while not chance(high, abs(effect), sd, confidence, comparisons) >= wanted:
        if high >= MOST:
            raise ValueError(f"effect={effect} at sd {sd:g} takes more than {MOST} seeds")
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        enough = chance(max(middle, 2), abs(effect), sd, confidence, comparisons) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return max(high, fewest)
