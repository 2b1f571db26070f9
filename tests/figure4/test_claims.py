"""Figure 4's rows, page, pictures and designs, on the print alone and on made-up records."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from repro.evidence.claims import Row
from repro.evidence.render import read_fingerprint
from repro.figure4 import TARGET, page
from repro.figure4.cells import printed
from tests.figure4.made_up import evidence

pytestmark = pytest.mark.usefixtures("coarse")


@functools.cache
def rows_of(scale: str | None = None) -> list[Row]:
    return TARGET.rows(evidence(scale))


def select(rows: list[Row], **wanted: str) -> list[Row]:
    return [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())]


class TestPrint:
    @property
    def rows(self) -> list[Row]:
        return rows_of()

    def test_every_mean_and_sd_follows_from_its_runs(self) -> None:
        found = select(self.rows, kind="arithmetic")
        assert len(found) == 2 * len(printed())
        assert {row.verdict for row in found} == {"consistent"}

    def test_every_pair_is_compared_with_ste_and_with_the_winner(self) -> None:
        for claim in ("separates_from_ste", "told_from_winner"):
            assert len(select(self.rows, claim=claim, scale="print")) == len(printed()) - 3

    def test_the_findings_hold_in_print(self) -> None:
        verdicts = {row.claim: row.verdict for row in self.rows if row.scale == "print" and row.row == ""}
        assert verdicts == {
            "weights_scaling_helps_at_3_bits": "holds",
            "activations_scaling_matters_little_at_3_bits": "holds",
            "activations_scaling_hurts_at_2_bits": "holds",
            "ties_at_4_bits": "holds",
        }

    def test_accuracies_wait_for_the_published_recipe(self) -> None:
        rows = select(self.rows, kind="number")
        assert {(row.scale, row.state, row.verdict) for row in rows} == {("paper", "missing", "")}
        assert [row.published for row in rows] == [str(found.mean) for found in printed().values()]

    def test_margins_are_half_the_smallest_and_twice_the_largest_contrast(self) -> None:
        study = self.rows
        published = {(r.row, r.column): float(r.published) for r in study if r.claim == "effect" and r.scale == "print"}
        margins = {row.claim: row.margin for row in study if row.scale == "print" and row.row == ""}
        smallest = min(published[f"weights_{name}", "3 bit"] for name in ("ewgs", "invtanh"))
        largest = max(abs(published[f"activations_{name}", "3 bit"]) for name in ("ewgs", "invtanh"))
        assert margins["weights_scaling_helps_at_3_bits"] == pytest.approx(smallest / 2, abs=0.01)
        assert margins["activations_scaling_matters_little_at_3_bits"] == pytest.approx(2 * largest, abs=0.01)


class TestOurs:
    @property
    def rows(self) -> list[Row]:
        return rows_of("cpu")

    def test_effects_that_are_there_hold(self) -> None:
        found = {(row.row, row.column): row.verdict for row in select(self.rows, claim="effect", scale="cpu")}
        assert found["weights_ewgs", "small 3 bit"] == "holds"
        assert found["activations_ewgs", "small 3 bit"] == ""  # the print's own interval reaches 0

    def test_the_opposite_direction_fails(self) -> None:
        rows = TARGET.rows(evidence("cpu", effect=-1.0))
        (row,) = select(rows, claim="separates_from_ste", row="ewgs/ste", column="small 3 bit")
        assert (row.verdict, row.n) == ("fails", 20)

    def test_patterns_by_network(self) -> None:
        found = {(row.claim, row.row): row.verdict for row in self.rows if row.scale == "cpu"}
        assert found["weights_scaling_helps_at_3_bits", "small"] == "holds"
        assert found["weights_scaling_helps_after_bn_at_3_bits", "small"] == "holds"
        assert found["weight_error_falls_at_3_bits", "small"] == "holds"
        assert found["activations_scaling_hurts_at_2_bits", "small"] == "fails"
        assert found["ties_at_4_bits", "small"] == "fails"
        assert ("activations_scaling_hurts_at_2_bits", "lite0") not in found

    def test_a_part_of_the_seeds_is_evidence_and_says_what_is_missing(self) -> None:
        (row,) = select(TARGET.rows(evidence("cpu", seeds=7)), claim="effect", row="weights_ewgs", column="small 3 bit")
        assert (row.verdict, row.n, row.state) == ("", 7, "missing")  # seeds are fixed: no look in between
        assert row.low is not None
        assert row.reason == "compute: 7 of 20 seeds recorded"

    def test_one_seed_alone_is_shown_without_a_verdict(self) -> None:
        rows = [row for row in TARGET.rows(evidence("smoke")) if row.scale == "smoke"]
        assert {row.verdict for row in rows if row.claim in ("separates_from_ste", "effect")} <= {"", "inconclusive"}

    def test_a_pair_that_was_not_released_is_shown_and_belongs_to_no_family(self) -> None:
        released = evidence("cpu", seeds=7)
        extra = [
            replace(
                r,
                unit=r.unit.replace("acos_ste", "ste_acos"),
                settings={**r.settings, "weights": "ste", "activations": "acos"},
            )
            for r in released.records
            if r.unit == "small_3bit_acos_ste"
        ]
        both = replace(released, records=(*released.records, *extra))
        assert TARGET.rows(both) == TARGET.rows(released)
        (line,) = [line for line in TARGET.summary(both, both).splitlines() if "ste/acos" in line][:1]
        assert [cell.strip() for cell in line.split("|")[1:4]] == ["3", "ste/acos", "7"]

    def test_ranks_agree_with_themselves(self) -> None:
        (row,) = select(self.rows, claim="rank_correlation", column="small 3 bit")
        assert row.ours is not None and 0 < row.ours <= 1  # noqa: PT018


class TestDesigns:
    def test_spread_and_seconds_are_those_of_the_records(self) -> None:
        found = {design.name: design for design in TARGET.designs(evidence("cpu"))}
        small = found["small depthwise network, 3 bits"]
        assert (small.n, small.comparisons, small.seconds) == (20, 17, 190.0)
        assert small.sd == pytest.approx(0.1 * 2**0.5, rel=0.2)

    def test_none_without_two_seeds(self) -> None:
        assert TARGET.designs(evidence("cpu", seeds=1)) == []


class TestFiles:
    def test_the_same_bytes_from_a_process_without_torch_and_pictures_with_a_fingerprint(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from tests.figure4.made_up import TARGET, evidence;"
            "from repro.evidence import render; render.STYLE['savefig.dpi'] = 40;"
            "TARGET.render(evidence('cpu', seeds=6), Path(sys.argv[1])); TARGET.rows(evidence());"
            "assert not {'torch', 'scipy.stats'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code, tmp_path / "b"], check=True, cwd=Path(__file__).parents[2])
        first = TARGET.render(evidence("cpu", seeds=6), tmp_path / "a")
        names = {"figure4.csv", "figure4_points.csv", "figure4.md"}
        names |= {f"figure4{part}.{kind}" for part in ("", "_differences", "_delta") for kind in ("png", "svg")}
        assert {path.name for path in first} == names
        for one in first:
            assert one.read_bytes() == (tmp_path / "b" / one.name).read_bytes(), one.name
        assert read_fingerprint(tmp_path / "a/figure4.png") == read_fingerprint(tmp_path / "a/figure4.svg") is not None

    def test_every_run_is_a_point(self) -> None:
        points = list(page.points_of(evidence("cpu", seeds=2)))
        assert {len(point) for point in points} == {len(page.POINTS)}
        sources = [point[0] for point in points]
        assert sources.count("published") == sum(len(found.runs) for found in printed().values())
        assert sources.count("cpu") == 2 * (30 + 3 + 24)

    def test_the_page_names_what_a_reader_looks_for(self) -> None:
        text = TARGET.summary(evidence("cpu"), evidence("smoke"))
        for words in (
            "ewgs/invtanh",
            "told from winner",
            "Rank correlation",
            "over delta",
            "Power: committed",
            "Var ratio",
        ):
            assert words in text
