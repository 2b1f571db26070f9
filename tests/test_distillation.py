"""The target `distillation`: two students that differ in their loss alone, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from repro import distillation, targets
from repro.datasets import cifar10
from repro.distillation import DISTILLED, STUDENT, TARGET
from repro.errors import UsageError
from repro.evidence.collection import Evidence
from repro.evidence.records import pack
from repro.targets import Context, Outcome, Unit, planned
from repro.training.loop import load
from tests.datasets import made_up
from tests.made_up import evidence, record_of

TINY = {"width": "8", "train_images": "64", "test_images": "40", "batch": "16", "fp32_epochs": "1", "epochs": "1"}


def units(**changes: str) -> dict[str, Unit]:
    return {unit.name: unit for unit in planned(TARGET, "smoke", 1, TINY | changes)}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs a unit on made-up images, starting from the FP32 network of this test."""

    monkeypatch.setattr(cifar10, "load", made_up.cifar10())

    def run_unit(unit: Unit, folder: str = "", of: targets.Target = TARGET) -> Outcome:
        for name in unit.requires:
            if not (tmp_path / name / "network.pt").exists():
                run_unit(units()[name])
        place = tmp_path / (folder or unit.name)
        place.mkdir()
        return of.run(unit, Context(place, inputs={name: tmp_path / name for name in unit.requires}))

    return run_unit


def network(tmp_path: Path, name: str) -> dict[str, torch.Tensor]:
    return load(tmp_path / name / "network.pt")


class TestUnits:
    def test_both_students_start_from_the_float_network_that_teaches(self) -> None:
        assert {unit.name: unit.requires for unit in planned(TARGET, "cpu", 1)} == {
            "fp32": (),
            STUDENT: ("fp32",),
            DISTILLED: ("fp32",),
        }

    def test_a_setting_of_the_loss_is_one_of_the_taught_student_alone(self) -> None:
        plain, changed = units(), units(temperature="8")
        assert [name for name in plain if plain[name].settings != changed[name].settings] == [DISTILLED]
        assert plain[DISTILLED].settings.keys() - plain[STUDENT].settings.keys() == set(distillation.LOSS)

    def test_weights_add_up_to_the_loss_without_a_teacher(self) -> None:
        for scale in TARGET.scales.values():
            assert scale["hard_weight"] + scale["soft_weight"] == 1  # type: ignore[operator]

    @pytest.mark.parametrize("change", ["temperature=0", "soft_weight=0", "hard_weight=-1", "epochs=0", "batch=100000"])
    def test_settings_that_cannot_be(self, change: str) -> None:
        key, _, value = change.partition("=")
        with pytest.raises(UsageError, match=f"{key}="):
            units(**{key: value})


class TestTraining:
    def test_without_a_teacher_it_is_table_1s_individual_network(self, run: Callable, tmp_path: Path) -> None:
        ours = run(units()[STUDENT])
        table1 = replace(units()[STUDENT], target="table1")
        theirs = run(table1, "theirs", targets.get("table1"))
        assert ours.values == theirs.values
        assert ours.curve == theirs.curve
        one, other = network(tmp_path, STUDENT), network(tmp_path, "theirs")
        assert all(torch.equal(one[key], other[key]) for key in one)

    def test_the_teacher_changes_the_student_and_not_itself(self, run: Callable, tmp_path: Path) -> None:
        plain = run(units()[STUDENT])
        before = network(tmp_path, "fp32")
        taught = run(units()[DISTILLED])
        assert taught.values.keys() == taught.correct.keys() == {"2"}
        assert taught.curve[0]["loss"] != plain.curve[0]["loss"]
        after = network(tmp_path, "fp32")
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert not torch.equal(network(tmp_path, STUDENT)["fc.weight"], network(tmp_path, DISTILLED)["fc.weight"])

    def test_a_teacher_of_almost_no_weight_teaches_almost_nothing(self, run: Callable, tmp_path: Path) -> None:
        plain = run(units()[STUDENT])
        taught = run(units(hard_weight="1", soft_weight="1e-6")[DISTILLED])
        assert taught.curve[0]["loss"] == pytest.approx(plain.curve[0]["loss"], rel=1e-3)


def kept(*gains: float) -> Evidence:
    """Made-up records in which the teacher adds `gains`, by seed, to a student of 60 %; no seed's FP32 is alike."""
    records = []
    for unit in planned(TARGET, "cpu", len(gains)):
        right = {"fp32": 80 + unit.seed, STUDENT: 60, DISTILLED: 60 + gains[unit.seed]}[unit.name]
        column = "32" if unit.name == "fp32" else "2"
        hits = np.arange(1000) < 10 * right
        if unit.name == DISTILLED:
            hits[:5] = False
        records.append(record_of(unit, {column: float(right)}, correct={column: pack(hits)}))
    return evidence(TARGET, records)


class TestEvidence:
    @pytest.mark.parametrize(
        ("gains", "verdict"),
        [((2.0, 2.1, 2.2), "holds"), ((0.0, 0.1, 0.2), "fails"), ((0.0, 1.0, 2.0), "inconclusive")],
    )
    def test_the_claim_is_about_the_paired_difference(self, gains: tuple[float, ...], verdict: str) -> None:
        (row,) = TARGET.rows(kept(*gains))
        assert (row.claim, row.kind, row.scale) == ("teacher_helps_at_2_bits", "pattern", "cpu")
        assert (row.verdict, row.state, row.n, row.margin) == (verdict, "ok", 3, 0.5)
        assert row.ours == pytest.approx(np.mean(gains))

    def test_fewer_seeds_than_planned_show_as_missing(self) -> None:
        (row,) = TARGET.rows(kept(2.0, 2.1))
        assert (row.n, row.state, row.reason) == (2, "missing", "compute: 2 of 3 seeds recorded")
        assert row.verdict == ""

    def test_the_page_shows_seeds_their_difference_and_the_images_behind_it(self, tmp_path: Path) -> None:
        found = kept(2.0, 2.1, 2.2)
        _, markdown = TARGET.render(found, tmp_path)
        text = markdown.read_text()
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
        cells = {line[0]: line[1:] for line in lines if len(line) > 1}
        assert cells["FP32: start of both, and the teacher"] == ["80.00", "81.00", "82.00", "81.00 ± 1.00"]
        assert cells["2 bit, from labels alone"] == ["60.00"] * 3 + ["60.00 ± 0.00"]
        assert cells["what the teacher adds"] == ["+2.00", "+2.10", "+2.20", "+2.10 ± 0.10"]
        assert cells["test images right only with, only without"] == ["20, 5", "21, 5", "22, 5", ""]
        assert "temperature 4.0" in text
        assert "holds" in TARGET.summary(found, found)

    def test_runs_that_are_not_complete_are_shown_as_far_as_they_are(self) -> None:
        found = kept(2.0, 2.1)
        part = replace(found, records=tuple(r for r in found.records if (r.unit, r.seed) != (DISTILLED, 1)))
        assert "20, 5" in (text := TARGET.summary(part, part))
        assert "–" in text
