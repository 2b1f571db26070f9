"""Delta_B in exact arithmetic, and ours with the interval of the delta method."""

from fractions import Fraction

import numpy as np
import pytest

from repro.adaptive import delta_b
from repro.published import Printed, table

TABLES = ("table1", "table2", "table3", "table4")


def cells(*texts: str) -> dict[int, Printed]:
    return {bits: Printed(text, 1) for bits, text in zip((8, 6, 4, 2), texts, strict=False)}


def test_interval_by_hand() -> None:
    """One bit-width: (50 -+ .05) / (100 +- .05)."""
    low, high = delta_b.derivable(cells("50.0"), cells("100.0"))
    assert low == 100 * Fraction("49.95") / Fraction("100.05")
    assert high == 100 * Fraction("50.05") / Fraction("99.95")


def test_a_cell_that_is_individuals_own_contributes_exactly_its_share() -> None:
    low, high = delta_b.derivable(cells("93.0", "50.0"), cells("93.0", "100.0"), frozenset({8}))
    assert low == 50 + 50 * Fraction("49.95") / Fraction("100.05")
    assert high == 50 + 50 * Fraction("50.05") / Fraction("99.95")


@pytest.mark.parametrize("name", TABLES)
def test_interval_contains_the_plain_ratio(name: str) -> None:
    printed = table(name)
    individual = {b: printed.cell("individual", b) for b in printed.bits}
    for method in printed.methods:
        row = {b: printed.cell(method, b) for b in printed.bits}
        low, high = delta_b.derivable(row, individual)
        plain = sum(100 * row[b].value / individual[b].value for b in row) / len(row)
        assert low < plain < high
        assert high - low < Fraction(1, 2)


def program(deltas: tuple[str, str]) -> delta_b.Feasibility:
    """Two methods at one bit-width: 50.0 and 20.0 over an Individual of 60.0."""
    rows = [(Printed(d, 1), cells(a), frozenset[int]()) for d, a in zip(deltas, ("50.0", "20.0"), strict=True)]
    return delta_b.hold_together(rows, cells("60.0"))


def test_rows_that_share_denominators_hold_together() -> None:
    found = program(("83.3", "33.3"))
    assert found.possible
    assert found.slack > 0
    assert 59.95 <= found.accuracies[8] <= 60.05


def test_rows_that_are_derivable_alone_but_not_together() -> None:
    """83.5 needs i <= 100 * 50.05 / 83.45 = 59.976, and 33.2 needs i >= 100 * 19.95 / 33.25 = 60."""
    for printed, cell in ((Printed("83.5", 1), "50.0"), (Printed("33.2", 1), "20.0")):
        low, high = delta_b.derivable(cells(cell), cells("60.0"))
        assert printed.low <= high
        assert low <= printed.high
    found = program(("83.5", "33.2"))
    assert not found.possible
    assert found.slack < -0.001


@pytest.mark.parametrize("name", TABLES)
def test_solution_is_found_for_every_table(name: str) -> None:
    """A denominator outside its box would give the program a wrong yes."""
    from repro.adaptive.claims import Arithmetic

    printed = table(name)
    found = Arithmetic(printed).together
    assert found.possible
    assert found.slack >= 0
    for bits, accuracy in found.accuracies.items():
        cell = printed.cell("individual", bits)
        assert float(cell.low) - 1e-9 <= accuracy <= float(cell.high) + 1e-9


def test_ours_is_the_ratio_of_seed_means() -> None:
    row = {8: {0: 45.0, 1: 55.0, 2: 50.0}, 2: {0: 30.0, 1: 30.0, 2: 33.0}}
    individual = {8: {0: 90.0, 1: 110.0, 2: 100.0}, 2: {0: 60.0, 1: 62.0, 2: 64.0}}
    found = delta_b.ours(row, individual)
    assert found.estimate == pytest.approx(50 * (50 / 100) + 50 * (31 / 62))
    assert found.n == 3


def test_ours_has_the_interval_of_the_delta_method() -> None:
    """One bit-width: the variance of a/i is (s_a^2 - 2 r s_ai + r^2 s_i^2) / i^2, r = a/i (a textbook result)."""
    rng = np.random.default_rng(0)
    a, i = rng.normal(60, 1, 9), rng.normal(80, 2, 9)
    found = delta_b.ours({8: dict(enumerate(a))}, {8: dict(enumerate(i))})
    ratio, covariance = a.mean() / i.mean(), np.cov(a, i)
    variance = (covariance[0, 0] - 2 * ratio * covariance[0, 1] + ratio**2 * covariance[1, 1]) / i.mean() ** 2
    assert found.estimate == pytest.approx(100 * ratio)
    assert found.sd == pytest.approx(100 * np.sqrt(variance))


def test_ours_uses_the_seeds_that_all_cells_share() -> None:
    found = delta_b.ours({8: {0: 50.0, 1: 60.0}}, {8: {1: 100.0, 2: 90.0}})
    assert (found.estimate, found.n) == (60, 1)
    assert delta_b.ours({8: {0: 50.0}}, {8: {1: 100.0}}) is None


def test_without_a_right_answer_of_individual_there_is_no_ratio() -> None:
    row, nothing = {8: {0: 50.0}, 2: {0: 40.0}}, {8: {0: 90.0}, 2: {0: 0.0}}
    assert delta_b.ours(row, nothing) is None
    assert delta_b.by_seed(row, nothing) == {}
