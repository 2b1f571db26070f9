"""`python -m repro plan`: seeds and hours from what is recorded, one line where that is not enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro.cli import main
from repro.evidence.power import equivalence_power, power, seeds_needed
from repro.evidence.records import Store
from repro.figure4 import TARGET
from repro.places import Places
from repro.targets import Unit, planned
from tests.figure4.made_up import evidence, record


def few(unit: Unit) -> bool:
    """The units of a comparison, without the other networks and widths."""
    return unit.name.startswith("small_3bit")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(root=tmp_path / "checkout", out=tmp_path / "runs")


def test_nothing_recorded_is_one_line_with_a_remedy(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "figure4", "--effect", ".6", "--power", ".8"], places) == 3
    err = capsys.readouterr().err
    assert "python -m repro figure4 --scale cpu" in err
    assert err.count("\n") == 1


def test_seeds_and_hours_from_records(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    found = evidence("cpu", seeds=4, keep=few)
    for one in found.records:
        places.local.write(one)
    assert main(["plan", "figure4", "--effect", ".6", "--json"], places) == 0
    planned = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    small = planned["small depthwise network, 3 bits"]
    (design,) = [design for design in TARGET.designs(found) if design.name == small["name"]]
    assert small["seeds"] == seeds_needed(0.6, design.sd, 0.8)
    assert small["hours"] == pytest.approx(small["seeds"] * design.seconds / 3600)
    assert small["seeds_together"] == seeds_needed(0.6, design.sd, 0.8, comparisons=design.comparisons) > small["seeds"]
    assert small["hours_together"] == pytest.approx(small["seeds_together"] * design.seconds / 3600)
    assert small["hours_equal"] == pytest.approx(small["seeds_equal"] * design.seconds / 3600)
    assert small["power_now"] == pytest.approx(power(4, 0.6, design.sd))
    assert small["seeds_equal"] == seeds_needed(
        0.6, design.sd, 0.8, comparisons=design.comparisons, chance=equivalence_power
    )
    assert small["source"] == "this machine"
    assert main(["plan", "figure4", "--effect", ".6"], places) == 0
    assert "core hours" in capsys.readouterr().out


def test_a_pilot_with_other_settings_and_seeds(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    pilot = ["--seeds", "30", "--set", "small_lr=0.02"]
    assert main(["plan", "figure4", "--effect", ".6", *pilot], places) == 3
    for unit in planned(TARGET, "cpu", 30, {"small_lr": "0.02"}):
        if unit.seed in (25, 29) and unit.name in ("small_3bit_ste_ste", "small_3bit_ewgs_ste"):
            places.local.write(record(unit))
    assert main(["plan", "figure4", "--effect", ".6", *pilot, "--json"], places) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["source"], found["recorded"]) == ("this machine", 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["figure4", "--effect", ".6", "--set", "smal_lr=1"], "did you mean small_lr"),
        (["table1", "--effect", ".6"], "table1 has no comparison to plan; there is contest, figure4"),
        (["figure4", "--effect", "0"], "--effect"),
        (["figure4", "--effect", "nan"], "effect=nan, power=0.8: give finite points"),
        (["figure4", "--effect", ".6", "--power", "1"], "--power"),
        (["figure4", "--effect", ".6", "--power", "nan"], "power=nan: give finite points"),
        (["figure4"], "--effect"),
        (["figur4", "--effect", ".6"], "did you mean figure4"),
    ],
)
def test_bad_requests(places: Places, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments], places) == 2
    assert words in capsys.readouterr().err


def test_an_effect_out_of_reach_is_one_line(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    for one in evidence("cpu", seeds=2, keep=few).records:
        Store(places.committed(TARGET).folder).write(one)
    assert main(["plan", "figure4", "--effect", "1e-9"], places) == 2
    assert "more than" in capsys.readouterr().err
