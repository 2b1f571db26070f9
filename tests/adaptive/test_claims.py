"""Claims of Tables 1-4: what is disputed, which patterns the print satisfies, and where every margin comes from."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest
from scipy.stats import spearmanr

from repro import targets
from repro.adaptive.claims import Arithmetic, Measured, patterns, printed_cells, rows
from repro.adaptive.methods import unit_of
from repro.evidence.claims import equivalence_margin, judge_print
from repro.evidence.collection import Evidence
from repro.evidence.preregistration import preregistered
from repro.evidence.records import Record
from repro.places import PREREGISTRATION
from repro.published import PublishedTable, table
from repro.targets import planned
from tests.made_up import evidence, record_of

TABLES = ("table1", "table2", "table3", "table4")


@pytest.mark.parametrize("name", TABLES)
def test_every_delta_b_but_individuals_is_judged_by_an_independent_computation(name: str) -> None:
    """The same rule in integers: tenths of a point, all bounds over one common denominator."""
    printed = table(name)
    found = {row.row: row.verdict for row in Arithmetic(printed).rows() if row.claim == "delta_b_follows"}
    assert "individual" not in found
    assert len(found) == 10
    for method, verdict in found.items():
        low = high = Fraction(0)
        for bits in printed.bits:
            a = round(float(printed.cell(method, bits)) * 10)
            i = round(float(printed.cell("individual", bits)) * 10)
            if method == "dq8" and bits == 8:
                low, high = low + 25, high + 25
                continue
            low += Fraction(25 * (2 * a - 1), 2 * i + 1)
            high += Fraction(25 * (2 * a + 1), 2 * i - 1)
        d = round(float(printed.delta_b(method)) * 10)
        derivable = Fraction(2 * d - 1, 20) <= high and low <= Fraction(2 * d + 1, 20)
        assert verdict == ("consistent" if derivable else "disputed")


def test_bold_and_ranks_as_the_captions_state_them() -> None:
    """CoQuant is bold in all four tables; in Table 4 Bit-Mixer's Delta_B is higher."""
    for name in TABLES:
        found = {(row.claim, row.row): row for row in Arithmetic(table(name)).rows()}
        bold, rank = found["bold_is_best", "coquant"], found["rank_by_delta_b", "coquant"]
        assert bold.verdict == ("disputed" if name == "table4" else "consistent")
        assert rank.published == ("2" if name == "table4" else "1")
        assert ("rank_by_delta_b", "individual") not in found


@pytest.mark.parametrize("name", TABLES)
def test_the_print_satisfies_every_pattern_that_ships(name: str) -> None:
    section, _ = preregistered(PREREGISTRATION, name)
    for pattern in patterns(section):
        assert judge_print(pattern, printed_cells(table(name))).verdict == "holds", pattern.name


@pytest.mark.parametrize("name", TABLES)
def test_margins_of_numbers_are_half_the_printed_gap_or_half_a_point(name: str) -> None:
    printed = table(name)
    others = [method for method in printed.methods if method != "individual"]
    expected = {str(b): equivalence_margin([printed.cell(m, b) for m in others], 0.5) for b in printed.bits}
    expected["delta_b"] = equivalence_margin([printed.delta_b(m) for m in others], 0.5)
    assert preregistered(PREREGISTRATION, name)[0]["margins"] == expected


@pytest.mark.parametrize("name", TABLES)
def test_margins_of_patterns_come_from_the_print(name: str) -> None:
    """`above`: half the smallest printed contrast; `within`: twice the largest."""
    cells = printed_cells(table(name))
    for pattern in patterns(preregistered(PREREGISTRATION, name)[0]):
        values = [
            sum(int(c) * cells[place].value for place, c in contrast.terms.items()) - Fraction(contrast.offset)
            for contrast in pattern.contrasts
        ]
        above = pattern.contrasts[0].relation == "above"
        margin = min(values) / 2 if above else 2 * max(map(abs, values))
        assert pattern.contrasts[0].margin == float(margin), pattern.name


@cache
def kept(seeds: int = 3) -> Evidence:
    """Made-up records of every unit of Table 1: Individual at 90, DQ rows at 10, 2-bit cells ten points lower."""
    target, records = targets.get("table1"), []
    for unit in planned(target, "cpu", seeds):
        if unit.name == "fp32":
            continue
        widths = [str(bits) for bits in unit_of(unit.name)[1]]
        base = 10.0 if unit.name == "dq32" else 90.0
        values = {w: base + 0.1 * unit.seed - (10.0 if w == "2" and base > 10 else 0) for w in widths}
        records.append(record_of(unit, values, best=dict.fromkeys(values, 99.0)))
    return evidence(target, records)


def test_the_page_says_how_our_delta_b_ranks_methods_beside_the_print() -> None:
    """Runs with the printed accuracies, of which two methods have changed places."""
    target, printed, records = targets.get("table1"), table("table1"), []
    places = {"coquant": "joint", "joint": "coquant"}
    for unit in planned(target, "cpu", 1):
        if unit.name == "fp32" or (method := unit_of(unit.name)[0]).origin:
            continue
        name = places.get(method.name, method.name)
        records.append(record_of(unit, {str(b): float(printed.cell(name, b)) for b in unit_of(unit.name)[1]}))
    recorded = evidence(target, records)
    runs, compared = Measured(printed, recorded, "cpu"), [m for m in printed.methods if m != "individual"]
    ours = [runs.delta_b(method).estimate for method in compared]  # type: ignore[union-attr]
    rho = spearmanr(ours, [float(printed.delta_b(method)) for method in compared]).statistic
    assert 0 < rho < 0.6
    (line,) = [line for line in target.summary(recorded, evidence(target)).splitlines() if "rank correlation" in line]
    assert f"rank correlation of Delta_B with the print {rho:.2f} (" in line
    assert line.endswith(" over 10 methods; the interval is over methods, not over seeds.")
    (row,) = [row for row in target.rows(recorded) if row.claim == "rank_correlation"]
    assert (row.ours, row.n, row.verdict, row.state) == (pytest.approx(rho), 10, "", "missing")
    assert row.low < rho < row.high


def find(kept: Evidence, claim: str, row: str, column: str, scale: str = "cpu"):
    printed: PublishedTable = table("table1")
    (found,) = [
        r for r in rows(printed, kept, "cpu") if (r.claim, r.row, r.column, r.scale) == (claim, row, column, scale)
    ]
    return found


def test_a_cell_at_reduced_scale_has_a_difference_but_no_verdict() -> None:
    row = find(kept(), "top1", "individual", "8")
    assert (row.published, row.ours, row.n, row.verdict, row.state) == ("95.1", pytest.approx(90.1), 3, "", "ok")
    assert row.low < 90.1 - 95.1 < row.high


def test_our_delta_b_is_that_of_the_seed_means() -> None:
    row = find(kept(), "delta_b", "dq32", "delta_b")
    assert row.ours == pytest.approx(25 * 10.1 * (3 / 90.1 + 1 / 80.1))
    assert find(kept(), "delta_b", "dq8", "delta_b").ours == pytest.approx(100)


@pytest.mark.parametrize("name", ["table3", "table4"])
def test_a_table_whose_data_are_not_here_is_missing_without_a_verdict(name: str) -> None:
    target = targets.get(name)
    found = [row for row in target.rows(evidence(target)) if row.claim == "top1"]
    assert len(found) == 44
    assert {(row.ours, row.verdict, row.state) for row in found} == {(None, "", "missing")}
    assert all(
        row.reason.startswith("data: ") and row.reason.endswith("put under the data root by hand") for row in found
    )


def test_a_row_of_ours_has_its_own_numbers_and_nothing_beside_them() -> None:
    row = find(kept(), "top1", "selected", "8")
    assert (row.published, row.read_from, row.ours, row.n, row.state) == ("", "", pytest.approx(90.1), 3, "ok")
    assert (row.margin, row.verdict) == (None, "")
    assert row.low < row.ours < row.high
    assert find(kept(), "delta_b", "selected", "delta_b").ours == pytest.approx(100)


def test_a_missing_seed_of_a_row_of_ours_shows() -> None:
    full = kept()
    fewer = replace(full, records=tuple(r for r in full.records if (r.unit, r.seed) != ("selected", 1)))
    row = find(fewer, "top1", "selected", "8")
    assert (row.n, row.state, row.reason) == (2, "missing", "compute: 2 of 3 seeds recorded")


def test_fewer_seeds_than_planned_show_as_missing() -> None:
    row = find(kept(seeds=2), "top1", "individual", "8")
    assert (row.n, row.state, row.reason) == (2, "missing", "compute: 2 of 3 seeds recorded")


def test_before_all_planned_seeds_are_recorded_nothing_gets_a_verdict() -> None:
    fewer = kept(seeds=2)
    patterns = [row for row in rows(table("table1"), fewer, "cpu") if row.scale == "cpu" and row.kind == "pattern"]
    assert {row.verdict for row in patterns} == {""}
    assert {row.n for row in patterns} == {2}
    for seeds, verdict in ((2, ""), (3, "differs")):
        paper = evidence(targets.get("table1"), paper_records(seeds))
        assert find(paper, "top1", "individual", "8", "paper").verdict == verdict


def paper_records(seeds: int) -> list[Record]:
    """Made-up records of what the paper's scale plans: Individual at 90 % and a little, where the print has 95.1."""
    units = [unit for unit in planned(targets.get("table1"), "paper", seeds) if unit.name.startswith("individual")]
    columns = [(unit, unit.name.removeprefix("individual_")) for unit in units]
    return [record_of(unit, {bits: 90.0}, best={bits: 90.0 + 0.1 * unit.seed}) for unit, bits in columns]


def test_patterns_are_judged_on_ours() -> None:
    found = {r.claim: r for r in rows(table("table1"), kept(), "cpu") if r.scale == "cpu"}
    assert found["dq32_at_chance"].verdict == "holds"
    assert found["bn_calibration_lifts_dq32"].verdict == "holds"
    assert found["dq8_collapses_at_2"].verdict == "fails"  # ten points where the margin is 43.4
    assert found["individual_loses_most_at_2"].verdict == "holds"


def test_no_pattern_is_judged_on_smoke() -> None:
    smoke = replace(kept(), records=tuple(replace(record, scale="smoke") for record in kept().records))
    found = [r for r in rows(table("table1"), smoke, "cpu") if r.scale == "smoke"]
    assert {r.kind for r in found} == {"number", "pattern"}
    assert {r.verdict for r in found} == {""}
    assert any(r.ours == pytest.approx(90.1) for r in found)


def test_last_epoch_at_reduced_scale_and_the_papers_rule_at_full_scale() -> None:
    found = kept()
    assert Measured(table("table1"), found, "cpu").accuracy("individual", 8)[0] == 90.0
    moved = Evidence("table1", (), tuple(replace_scale(r) for r in found.records))
    assert Measured(table("table1"), moved, "paper").accuracy("individual", 8)[0] == 99.0


def replace_scale(record: Record) -> Record:
    return replace(record, scale="paper")


def test_nothing_recorded_still_gives_every_row() -> None:
    target = targets.get("table1")
    found = target.rows(evidence(target))
    numbers = [r for r in found if r.kind == "number"]
    assert len(numbers) == (11 + 7) * 4 + (10 + 7)
    assert {r.state for r in numbers} == {"missing"}
    assert {r.verdict for r in numbers} == {""}


def test_a_pattern_of_delta_b_needs_individuals_runs_too() -> None:
    full = kept()
    (whole,) = [r for r in rows(table("table1"), full, "cpu") if (r.claim, r.scale) == ("coquant_best_delta_b", "cpu")]
    assert (whole.state, whole.n, whole.ours) == ("ok", 3, pytest.approx(0))  # all methods are made up alike
    bare = replace(full, records=tuple(r for r in full.records if not r.unit.startswith("individual")))
    (part,) = [r for r in rows(table("table1"), bare, "cpu") if (r.claim, r.scale) == ("coquant_best_delta_b", "cpu")]
    assert (part.state, part.reason, part.verdict) == ("missing", "compute: 0 of 3 seeds recorded", "")
