"""Stand-in runs of Tables 3 and 4: labelled on page, in CSV and in the status, and never evidence for the print."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import status, targets
from repro.adaptive.methods import unit_of
from repro.evidence.claims import STAND_IN, ClaimError, Row
from repro.evidence.collection import Evidence
from repro.targets import planned
from tests.made_up import evidence, record_of

TABLES = ("table3", "table4")


def kept(name: str) -> Evidence:
    """Made-up records of every unit at `smoke`: 42 % everywhere."""
    target, records = targets.get(name), []
    for unit in planned(target, "smoke"):
        widths = ["32"] if unit.name == "fp32" else [str(bits) for bits in unit_of(unit.name)[1]]
        values = dict.fromkeys(widths, 42.0)
        records.append(record_of(unit, values, best=values))
    return evidence(target, records)


@pytest.mark.parametrize("name", TABLES)
def test_claims_about_the_print_are_as_without_the_runs(name: str) -> None:
    target = targets.get(name)
    with_runs = target.rows(kept(name))
    without = target.rows(evidence(target))
    assert [row for row in with_runs if row.claim != STAND_IN] == without
    assert {row.state for row in without if row.scale != "print"} == {"missing"}


@pytest.mark.parametrize("name", TABLES)
def test_rows_page_and_status_say_what_it_is(name: str, tmp_path: Path) -> None:
    target, found = targets.get(name), kept(name)
    words = target.stand_ins["smoke"].words
    rows = [row for row in target.rows(found) if row.claim == STAND_IN]
    assert len(rows) == 44
    assert {(row.scale, row.ours, row.n, row.published, row.verdict, row.state) for row in rows} == {
        ("smoke", 42.0, 1, "", "", "ok")
    }
    assert {row.reason for row in rows} == {f"stand-in: {words}; no evidence for the print"}
    written = target.render(found, tmp_path / "renders")
    assert sorted(path.suffix for path in written) == [".csv", ".md"]  # no picture of print and ours side by side
    page = (tmp_path / "renders" / f"{name}.md").read_text()
    print_part, stand_in_part = page.split("\n## Stand-in, smoke: ")
    assert "42.0" not in print_part
    assert "Nothing is recorded yet." in print_part
    assert stand_in_part.startswith(f"{words}\n\nNot {target.title}, and no evidence for it")
    assert stand_in_part.count("42.0") == 44
    lines = {line.scale: line for line in status.lines({name: target.rows(found)})}
    assert lines["smoke"].evidence == "smoke, stand-in: no evidence"
    assert not lines["paper"].reduced


def test_a_stand_in_cannot_be_judged_or_set_beside_the_print() -> None:
    for wrong in ({"verdict": "agrees", "scale": "gpu"}, {"published": "69.1"}):
        with pytest.raises(ClaimError, match="a stand-in is neither judged nor set beside a published value"):
            Row(target="table3", claim=STAND_IN, kind="number", **wrong)


@pytest.mark.parametrize("name", TABLES)
def test_each_scale_reads_its_own_data(name: str) -> None:
    target = targets.get(name)
    real = {"table3": "imagenet", "table4": "mini_kinetics"}[name]
    needs = {scale: target.data_of(planned(target, scale)[0]) for scale in target.scales}
    classes = {"table3": 1000, "table4": 200}[name]
    assert needs == {"smoke": {"cifar10": {}}, "paper": {real: {"classes": classes}}}
    assert set(target.needs) == {"cifar10", real}
    settings = {scale: set(planned(target, scale)[0].settings) for scale in target.scales}
    assert "image_size" in settings["paper"] - settings["smoke"]
    assert "train_images" in settings["smoke"] - settings["paper"]
