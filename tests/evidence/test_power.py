"""Power and numbers of seeds: against simulation, against each other, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from repro.evidence.intervals import t_interval
from repro.evidence.power import equivalence_power, power, seeds_needed


def test_power_is_the_share_of_intervals_that_exclude_zero() -> None:
    rng = np.random.default_rng(0)
    hits = [
        not low <= 0 <= high for _, low, high, *_ in (t_interval(rng.normal(0.6, 1, 15).tolist()) for _ in range(2000))
    ]  # type: ignore[operator]
    assert np.mean(hits) == pytest.approx(power(15, 0.6, 1.0), abs=0.04)


def test_equivalence_is_the_share_of_intervals_inside_the_margin() -> None:
    rng = np.random.default_rng(0)
    found = [t_interval(rng.normal(0, 1, 15).tolist()) for _ in range(2000)]
    hits = [low > -0.9 and high < 0.9 for _, low, high, *_ in found]  # type: ignore[operator]
    assert np.mean(hits) == pytest.approx(equivalence_power(15, 0.9, 1.0), abs=0.04)
    assert equivalence_power(15, 0.9, 1.0, comparisons=5) < equivalence_power(15, 0.9, 1.0)


def test_without_an_effect_it_is_the_level() -> None:
    assert power(9, 0.0, 1.0) == pytest.approx(0.05, rel=5e-3)
    assert power(9, 0.0, 1.0, comparisons=10) == pytest.approx(0.005, rel=5e-3)


@pytest.mark.parametrize("n", [2, 3, 6, 20, 1000])
@pytest.mark.parametrize("effect", [0.0, 0.1, 0.6, 2.0, 6.0])
@pytest.mark.parametrize("comparisons", [1, 17])
def test_power_is_that_of_the_noncentral_t_distribution(n: int, effect: float, comparisons: int) -> None:
    """Where the library gives a tail as NaN the lower is below 1e-9, and the upper all but 1."""
    t, shift = scipy.stats.t.ppf(1 - 0.05 / (2 * comparisons), n - 1), effect * np.sqrt(n)
    upper, lower = scipy.stats.nct.sf(t, n - 1, shift), scipy.stats.nct.cdf(-t, n - 1, shift)
    assert power(n, effect, 1.0, comparisons=comparisons) == pytest.approx(
        np.nan_to_num(upper, nan=1.0) + np.nan_to_num(lower), abs=1e-3
    )


def test_few_seeds_of_a_large_effect() -> None:
    """By the noncentral t distribution, effects in standard deviations."""
    assert seeds_needed(6.0, 1.0) == 3
    assert [seeds_needed(effect, 1.0, comparisons=17) for effect in (4.0, 6.0, 8.0)] == [5, 4, 4]
    assert seeds_needed(6.0, 1.0, fewest=6) == 6


@pytest.mark.parametrize(("effect", "comparisons"), [(0.6, 1), (0.6, 17), (0.1, 1), (-0.6, 1), (50.0, 1)])
def test_the_smallest_number_that_is_enough(effect: float, comparisons: int) -> None:
    n = seeds_needed(effect, 0.7, 0.8, comparisons=comparisons)
    assert power(n, abs(effect), 0.7, comparisons=comparisons) >= 0.8
    assert n == 2 or power(n - 1, abs(effect), 0.7, comparisons=comparisons) < 0.8


def test_what_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="effect=0"):
        seeds_needed(0.0, 1.0)
    with pytest.raises(ValueError, match="sd=0"):
        seeds_needed(1.0, 0.0)
    with pytest.raises(ValueError, match="more than"):
        seeds_needed(1e-9, 1.0)
    with pytest.raises(ValueError, match="1 seeds"):
        power(1, 1.0, 1.0)
