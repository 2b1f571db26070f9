"""Intervals: hand-computed values, and coverage by simulation from fixed generators.

A simulated coverage is held to within three standard errors of a binomial proportion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.evidence.intervals import (
    Interval,
    dunnett,
    dunnett_quantile,
    equivalence_interval,
    mean_sd,
    paired_difference,
    pairing,
    rank_agreement,
    rank_correlation,
    ratio_by_seed,
    ratio_of_means,
    simultaneous,
    t_interval,
    t_quantile,
)

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def covers(interval: Interval, truth: float) -> bool:
    return interval.low is not None and interval.high is not None and interval.low <= truth <= interval.high


def share(outcomes: Iterable[bool]) -> tuple[float, float]:
    """Proportion of true outcomes, and three standard errors of a proportion of .95."""
    found = list(outcomes)
    return sum(found) / len(found), 3 * math.sqrt(0.95 * 0.05 / len(found))


# One mean


@pytest.mark.parametrize(("p", "df", "t"), [(0.975, 1, 12.7062), (0.975, 4, 2.7764), (0.95, 9, 1.8331), (0.5, 3, 0)])
def test_t_quantiles_are_those_of_the_printed_tables(p: float, df: float, t: float) -> None:
    assert t_quantile(p, df) == pytest.approx(t, abs=5e-5)


def test_t_interval_by_hand() -> None:
    """Mean 5, sd sqrt(20/3), n = 4: half width 3.182446 * 2.581989 / 2 = 4.108520."""
    found = t_interval([2.0, 4.0, 6.0, 8.0])
    assert (found.estimate, found.n) == (5.0, 4)
    assert found.sd == pytest.approx(math.sqrt(20 / 3))
    assert found.low == pytest.approx(5 - 4.108520, abs=1e-5)
    assert found.high == pytest.approx(5 + 4.108520, abs=1e-5)


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    assert t_interval([3.0]) == (3.0, None, None, None, 1)
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


@given(st.floats(-1e6, 1e6), st.integers(2, 9))
def test_equal_values_have_no_spread_at_all(value: float, n: int) -> None:
    """Not even that of rounding: 3 * .1 / 3 is not .1 in binary arithmetic."""
    assert t_interval([value] * n) == (value, value, value, 0.0, n)


@given(VALUES, st.randoms())
def test_the_order_of_seeds_does_not_matter(x: list[float], random: object) -> None:
    assert mean_sd(sorted(x)) == mean_sd(x) == mean_sd(x[::-1])


def test_t_interval_covers_95_percent() -> None:
    rng = np.random.default_rng(0)
    found, error = share(covers(t_interval(rng.normal(3, 2, 4).tolist()), 3) for _ in range(2000))
    assert abs(found - 0.95) < error


# Equivalence


def test_equivalence_without_a_published_spread_by_hand() -> None:
    """s_p = s, n_p = 1, v = n - 1: .05 + 2.919986 * sqrt(1/3 + 1) = 3.421709."""
    found = equivalence_interval(t_interval([1.0, 2.0, 3.0]), y=1.5, h=0.05)
    assert found.estimate == 0.5
    assert found.high == pytest.approx(0.5 + 3.421709, abs=1e-5)
    assert found.low == pytest.approx(0.5 - 3.421709, abs=1e-5)


def test_equivalence_with_welchs_degrees_of_freedom_by_hand() -> None:
    """s = 2, n = 4; s_p = 1, n_p = 10: a = 1, b = .1, v = 1.21 / (1/3 + .01/9) = 3.617940."""
    ours = Interval(0.0, None, None, 2.0, 4)
    found = equivalence_interval(ours, 0.0, 0.05, published_sd=1.0, published_n=10)
    assert found.high is not None
    v = 1.21 / (1 / 3 + 0.01 / 9)
    assert v == pytest.approx(3.617940, abs=1e-6)
    assert t_quantile(0.95, 3) > (found.high - 0.05) / math.sqrt(1.1) > t_quantile(0.95, 4)
    assert found.high == pytest.approx(0.05 + t_quantile(0.95, v) * math.sqrt(1.1))


def test_equivalence_with_no_spread_of_ours_keeps_that_of_the_print() -> None:
    found = equivalence_interval(Interval(0.0, None, None, 0.0, 5), 0.0, 0.05, published_sd=1.0, published_n=10)
    assert found.high == pytest.approx(0.05 + 1.833113 / math.sqrt(10), abs=1e-5)


@pytest.mark.parametrize(("sd", "n"), [(1.0, None), (None, 3), (1.0, 1)])
def test_half_a_published_spread_is_an_error(sd: float | None, n: int | None) -> None:
    with pytest.raises(ValueError, match=r"go together|no spread over 1 runs"):
        equivalence_interval(t_interval([1.0, 2.0]), 0.0, 0.05, sd, n)


@pytest.mark.parametrize("published_n", [2, 5, 20])
def test_the_equivalence_interval_covers_90_percent_or_more(published_n: int) -> None:
    rng = np.random.default_rng(published_n)

    def once() -> bool:
        print_, ours = rng.normal(0, 1, published_n).tolist(), rng.normal(0, 2, 4).tolist()
        mean, sd = mean_sd(print_)
        return covers(equivalence_interval(t_interval(ours), mean, 0.0, sd, published_n), 0.0)

    found = sum(once() for _ in range(1000)) / 1000
    assert found > 0.90 - 3 * math.sqrt(0.9 * 0.1 / 1000)


# Pairs


def test_pairing_by_hand() -> None:
    """a: variance 1, b: variance 4, covariance 1, so correlation 1/2 and Var(a - b) = 1 + 4 - 2 = 3."""
    a, b = {0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.0, 1: 5.0, 2: 3.0}
    found = pairing(a, b)
    assert found.n == 3
    assert found.correlation == pytest.approx(0.5)
    assert found.variance_ratio == pytest.approx(3 / 5)


@pytest.mark.parametrize("b", [{0: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}, {7: 1.0, 8: 2.0}])
def test_pairing_is_not_measurable_without_spread(b: dict[int, float]) -> None:
    found = pairing({0: 1.0, 1: 2.0, 2: 4.0}, b)
    assert (found.correlation, found.variance_ratio) == (None, None)


def test_paired_difference_by_hand() -> None:
    """Over shared seeds 1 and 2: differences 1 and 3, mean 2, sd sqrt 2, half width 12.7062 * sqrt 2 / sqrt 2."""
    found = paired_difference({0: 50.0, 1: 2.0, 2: 5.0}, {1: 1.0, 2: 2.0, 3: 9.0})
    assert (found.estimate, found.n) == (2.0, 2)
    assert found.high == pytest.approx(2 + 12.7062, abs=1e-3)
    with pytest.raises(ValueError, match="at least one"):
        paired_difference({0: 1.0}, {1: 1.0})


# Ratios


def test_ratio_of_means_by_hand() -> None:
    """k = 2, scale 100: columns give ratios 1/2 and 1/4, so theta = 37.5.

    z of seed 0: 50 * [(4 - .5 * 10)/10 + (2 - .25 * 8)/8] = -5, of seed 1: 50 * [(6 - .5 * 10)/10 + 0] = 5.
    """
    found = ratio_of_means([[4.0, 2.0], [6.0, 2.0]], [[10.0, 8.0], [10.0, 8.0]], scale=100)
    assert found.estimate == 37.5
    assert found.sd == pytest.approx(math.sqrt(50))
    assert found.high == pytest.approx(37.5 + 12.7062 * 5, abs=1e-2)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=2, max_size=6))
def test_an_arm_over_itself_is_exactly_the_scale(rows: list[tuple[float, float]]) -> None:
    found = ratio_of_means(rows, rows, scale=100)
    assert found[:4] == pytest.approx((100, 100, 100, 0), abs=1e-9)


def test_ratio_of_means_covers_95_percent_over_paired_seeds() -> None:
    rng = np.random.default_rng(3)

    def once() -> bool:
        shared = rng.normal(0, 2, (8, 1))
        denominators = 80 + shared + rng.normal(0, 0.5, (8, 4))
        numerators = np.array([80.0, 79.0, 76.0, 60.0]) + shared + rng.normal(0, 0.5, (8, 4))
        truth = 100 * np.mean(np.array([80.0, 79.0, 76.0, 60.0]) / 80)
        return covers(ratio_of_means(numerators.tolist(), denominators.tolist(), scale=100), float(truth))

    found, error = share(once() for _ in range(600))
    assert abs(found - 0.95) < error


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([[1.0]], [[1.0, 2.0]], "one shape"),
        ([], [], "one shape"),
        ([[1.0], [2.0]], [[1.0], [-1.0]], "mean 0"),
    ],
)
def test_ratios_that_do_not_exist(a: list[list[float]], b: list[list[float]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ratio_of_means(a, b)


def test_the_ratio_of_one_seed_has_no_interval() -> None:
    assert ratio_of_means([[1.0]], [[2.0]]) == (0.5, None, None, None, 1)


# Families: sign flips of whole seed rows


def test_sign_flips_by_hand() -> None:
    """Six seeds, residuals -1, 1, -1, 1, -1, 1, s^2 = 6/5; 32 flips up to the sign of all.

    k odd signs give mean 1 - k/3. 10 flips: mean 0, t = 0. 15: mean 1/3. 6: mean 2/3, variance
    (6 - 6 * 4/9) / 5 = 2/3, t = (2/3) / sqrt((2/3) / 6) = 2. 1: mean 1, no variance, t unbounded.
    At .95 the ceil(.95 * 33) = 32nd smallest is taken, the unbounded one; at .9 the 30th, which is 2.
    """
    x = [[4.0], [6.0], [4.0], [6.0], [4.0], [6.0]]
    assert simultaneous(x)[0][1:3] == (None, None)
    found = simultaneous(x, confidence=0.9)[0]
    assert found.estimate == 5.0
    assert found.sd == pytest.approx(math.sqrt(6 / 5))
    assert found.high == pytest.approx(5 + 2 * math.sqrt(6 / 5 / 6))
    assert found.low == pytest.approx(5 - 2 * math.sqrt(6 / 5 / 6))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_with_few_seeds_there_is_no_simultaneous_interval(n: int) -> None:
    """Fewer than 2^5 flips have no .95 quantile that the data cannot exceed by themselves."""
    x = np.random.default_rng(n).normal(size=(n, 3))
    assert [found[1:3] for found in simultaneous(x.tolist())] == [(None, None)] * 3


def test_one_more_arm_widens_all_intervals_and_a_copy_of_one_does_not() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(9, 3))
    alone, copied, more = (simultaneous(arms.tolist())[0].high for arms in (x[:, :1], x[:, [0, 0]], x))
    assert alone == copied
    assert more is not None
    assert alone is not None
    assert more > alone


@given(st.integers(0, 99), st.floats(-50, 50), st.floats(0.1, 10))
def test_the_intervals_move_and_stretch_with_the_data(seed: int, shift: float, stretch: float) -> None:
    x = np.random.default_rng(seed).normal(size=(7, 2))
    plain, moved = simultaneous(x.tolist()), simultaneous((shift + stretch * x).tolist())
    for a, b in zip(plain, moved, strict=True):
        assert a.high is not None
        assert b.high == pytest.approx(shift + stretch * a.high, abs=1e-6)


def test_an_arm_that_does_not_vary_has_an_interval_of_length_zero() -> None:
    x = np.random.default_rng(2).normal(size=(8, 2))
    x[:, 1] = 0.1
    varies, constant = simultaneous(x.tolist())
    assert constant == (0.1, 0.1, 0.1, 0.0, 8)
    assert varies == simultaneous(x[:, :1].tolist())[0]


@pytest.mark.parametrize("n", [6, 8, 12])
def test_all_arms_are_covered_together_by_95_percent(n: int) -> None:
    """Correlated arms of different spread; effects do not matter."""
    rng = np.random.default_rng(n)
    effects, spreads = np.array([0.0, 1.0, -3.0, 10.0]), np.array([1.0, 0.1, 5.0, 1.0])

    def once() -> bool:
        x = effects + spreads * (rng.normal(size=(n, 4)) + rng.normal(size=(n, 1)))
        return all(covers(found, truth) for found, truth in zip(simultaneous(x.tolist()), effects, strict=True))

    found, error = share(once() for _ in range(300))
    assert found > 0.95 - error


def test_many_seeds_draw_their_flips_from_the_generator() -> None:
    x = np.random.default_rng(7).normal(size=(20, 3)).tolist()
    once, again = (simultaneous(x, rng=np.random.default_rng(1)) for _ in range(2))
    other = simultaneous(x, rng=np.random.default_rng(2))
    assert once == again
    assert once != other
    for a, b in zip(once, other, strict=True):
        assert a.high == pytest.approx(b.high, rel=0.1)
    with pytest.raises(ValueError, match="need a generator"):
        simultaneous(x)


def test_the_family_of_one_is_close_to_students_t() -> None:
    """Normal data, one arm, many seeds: c estimates t_.975."""
    x = np.random.default_rng(11).normal(size=(40, 1))
    found = simultaneous(x.tolist(), rng=np.random.default_rng(0))[0]
    student = t_interval(x[:, 0].tolist())
    assert found.high is not None
    assert student.high is not None
    assert found.high - found.estimate == pytest.approx(student.high - student.estimate, rel=0.03)


def test_another_shape_is_an_error() -> None:
    for x in ([], [[]], [1.0, 2.0]):
        with pytest.raises(ValueError, match="shape"):
            simultaneous(x)  # type: ignore[arg-type]


# Families: Dunnett


def test_one_arm_against_control_is_the_pooled_t_interval() -> None:
    """Means 3 and 1, pooled variance (2 + 2)/(2 + 2) = 1, 4 degrees of freedom: 2 -+ 2.776445 * sqrt(2/3)."""
    found = dunnett([[2.0, 3.0, 4.0]], control=[0.0, 1.0, 2.0])[0]
    assert (found.estimate, found.sd, found.n) == (2.0, 1.0, 3)
    assert found.high == pytest.approx(2 + 2.776445 * math.sqrt(2 / 3), abs=5e-3)


def test_more_arms_widen_dunnetts_intervals_but_less_than_bonferroni() -> None:
    rng = np.random.default_rng(4)
    arms, control = rng.normal(size=(5, 20)).tolist(), rng.normal(size=20).tolist()
    found = dunnett(arms, control)[0]
    assert found.high is not None
    assert found.sd is not None
    c = (found.high - found.estimate) / (found.sd * math.sqrt(2 / 20))
    assert t_quantile(0.975, 114) + 0.1 < c < t_quantile(1 - 0.025 / 5, 114)


def test_dunnett_gives_the_same_numbers_each_time() -> None:
    arms = np.random.default_rng(4).normal(size=(3, 6)).tolist()
    assert dunnett(arms[:2], arms[2]) == dunnett(arms[:2], arms[2])


@pytest.mark.parametrize(("sizes", "n0"), [((20,) * 17, 20), ((5, 9, 30), 12)])
def test_dunnett_agrees_with_scipys(sizes: tuple[int, ...], n0: int) -> None:
    """Which integrates by quasi-Monte Carlo, to about 1e-3."""
    from scipy.stats import dunnett as scipys

    rng = np.random.default_rng(2)
    arms, control = [rng.normal(size=n).tolist() for n in sizes], rng.normal(size=n0).tolist()
    theirs = scipys(*arms, control=control, rng=rng).confidence_interval()
    ours = dunnett(arms, control)
    assert [found.low for found in ours] == pytest.approx(theirs.low, abs=3e-3)
    assert [found.high for found in ours] == pytest.approx(theirs.high, abs=3e-3)


@pytest.mark.parametrize(("arms", "df", "c"), [(1, 5, 2.57), (2, 6, 2.86), (9, 20, 2.95), (4, 60, 2.51)])
def test_dunnett_quantiles_are_those_of_the_printed_tables(arms: int, df: int, c: float) -> None:
    assert dunnett_quantile(0.95, [0.5] * arms, df) == pytest.approx(c, abs=5e-3)


@pytest.mark.parametrize(("arm", "reason"), [([1.0], "at least two"), ([1.0, 1.0], "no sample varies")])
def test_dunnett_needs_a_spread(arm: list[float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        dunnett([arm], control=[2.0, 2.0])


def test_rank_correlation_is_scipys_with_ties_and_without() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    for values in (rng.normal(size=(2, 9)), rng.integers(0, 4, size=(2, 12)).astype(float)):
        assert rank_correlation(*values) == pytest.approx(spearmanr(*values).statistic)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_rank_agreement_is_over_what_both_have_and_needs_four_of_them() -> None:
    up = {name: float(i) for i, name in enumerate("abcdefgh")}
    found = rank_agreement(up | {"a": 1.0, "b": 0.0, "x": 9.0}, up)
    assert found is not None and found.low is not None and found.high is not None  # noqa: PT018
    assert found.n == 8
    assert found.estimate == pytest.approx(1 - 6 * 2 / (8 * 63))
    assert found.low < found.estimate < found.high <= 1
    assert rank_agreement(up, up) == (1, None, None, None, 8)
    assert rank_agreement({"a": 1.0, "b": 2.0, "c": 3.0}, up) is None


def test_the_difference_of_two_ratios_is_paired_by_seed() -> None:
    """Both ratios move together with their shared denominator, so that their difference does not move at all."""
    base = [[80.0], [90.0], [100.0]]
    a, b = [[8.0], [9.0], [10.0]], [[4.0], [4.5], [5.0]]
    assert ratio_by_seed(a, base, 100) == pytest.approx([10.0] * 3)
    values = np.subtract(ratio_by_seed(a, base, 100), ratio_by_seed(b, base, 100))
    assert values == pytest.approx([5.0] * 3)
    noisy = [[8.0], [9.5], [10.0]]
    found, each = ratio_of_means(noisy, base, 100), ratio_by_seed(noisy, base, 100)
    assert (found.estimate, found.sd) == pytest.approx((np.mean(each), np.std(each, ddof=1)))
