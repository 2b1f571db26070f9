"""The target `contest`: its arms, their order and losses, a test set that is read once, and how a gain is judged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from repro import contest
from repro.adaptive import experiment
from repro.adaptive.joint import JointStep
from repro.adaptive.methods import BITS, METHODS, Recipe
from repro.adaptive.settings import with_defaults
from repro.contest import ARMS, CONFIRMATORY, EQUALS, EXPLORATORY, GAINS, TARGET
from repro.datasets import cifar10
from repro.datasets.cifar10 import CIFAR10
from repro.evidence.intervals import Interval
from repro.evidence.preregistration import preregistered, section_hash
from repro.evidence.records import Record, pack
from repro.networks.resnet import ResNet18
from repro.places import PREREGISTRATION
from repro.targets import Context, planned
from tests.datasets import made_up
from tests.made_up import evidence, record_of

TINY = {"train_images": "64", "test_images": "40", "batch": "16", "fp32_epochs": "2", "epochs": "2"}
PLAN, _ = preregistered(PREREGISTRATION, "contest")


class TestUnits:
    def test_every_confirmatory_arm_has_a_seed_before_any_has_the_next(self) -> None:
        units = planned(TARGET, "cpu", 9)
        names = [arm.name for arm in CONFIRMATORY]
        confirmatory = [(unit.seed, unit.name) for unit in units if unit.name in names]
        assert confirmatory == [(seed, name) for seed in range(9) for name in names]
        assert {unit.name for unit in units[9 * 7 :]} == {arm.name for arm in EXPLORATORY}
        assert {unit.seed for unit in units[9 * 7 :]} == set(range(1, 9))

    def test_arms_are_those_that_are_preregistered(self) -> None:
        assert PLAN["study"] == "confirmatory"
        assert {PLAN["control"], *PLAN["arms"]} == {arm.name for arm in CONFIRMATORY}

    def test_the_grid_is_complete(self) -> None:
        """Soft target none, highest, nearest, random, selected; swapping off, teacher."""
        cells = {
            (recipe.teacher if recipe.soft_target else None, recipe.swapped)
            for recipe in (arm.recipe for arm in ARMS.values())
        }
        teachers = (None, "highest", "nearest", "random", "selected")
        assert cells == {(t, s) for t in teachers for s in (False, True)} | {("next_higher", False)}

    @pytest.mark.parametrize(
        ("arm", "changed"),
        [
            ("coquant_half", {"swap_start": (0.1, 0.5)}),
            ("coquant_alike", {"swap_by_depth": (True, False)}),
            ("coquant_confident", {"lambda_end": (0.02, 0.0)}),
            ("coquant_near", {"lambda_end": (0.02, 1.0)}),
            ("coquant_summed", {"entropy": ("mean", "sum")}),
            ("coquant_far", {"distance": ("mean", "sum")}),
            ("distilled_warm", {"temperature": (1.0, 4.0)}),
            ("distilled_light", {"soft_weight": (1.0, 0.5)}),
        ],
    )
    def test_variants_differ_in_one_constant_alone(self, arm: str, changed: dict[str, tuple[object, object]]) -> None:
        units = {unit.name: unit.settings for unit in planned(TARGET, "cpu", 1)}
        assert units[contest.CONSTANTS[arm][0].name].keys() <= units[arm].keys()
        first, other = (with_defaults(**units[name]) for name in (contest.CONSTANTS[arm][0].name, arm))
        assert {key: (first[key], other[key]) for key in first if first[key] != other[key]} == changed

    def test_the_test_set_is_read_once(self) -> None:
        assert all(unit.settings["test_once"] for unit in planned(TARGET, "cpu", 1))


def step_of(recipe: Recipe, widths: tuple[int, ...] = BITS, **changed: bool) -> tuple[float, torch.nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = experiment.quantized(ResNet18(width=2, stem_stride=2), recipe, with_defaults()).train()
        images = torch.randn(6, 3, 32, 32)
    return JointStep(network, widths, recipe, with_defaults(**changed), 10, seed=0)(images, torch.arange(6), 0), network


def test_matched_losses_are_means_of_the_two_targets() -> None:
    """A taught bit-width's loss is halved, the highest's is not; Any Precision's single target stays as it is."""
    summed, matched = (step_of(METHODS["distilled"].recipe, matched_loss=flag)[0] for flag in (False, True))
    top = step_of(METHODS["adabits"].recipe, widths=(8,))[0]
    assert 2 * matched - summed == pytest.approx(top, rel=1e-5)
    assert step_of(METHODS["any_precision"].recipe, matched_loss=True)[0] == step_of(METHODS["any_precision"].recipe)[0]


def test_a_teacher_may_lend_its_blocks_alone() -> None:
    """Without swapping and soft loss, a recipe with a teacher is AdaBits."""
    lent = Recipe("fp32", teacher="highest", soft_target=False)
    assert step_of(lent, matched_loss=True)[0] == step_of(METHODS["adabits"].recipe)[0]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """Runs the FP32 start and an arm on made-up images; gives their outcomes and counts evaluations."""

    monkeypatch.setattr(cifar10, "load", made_up.cifar10(train=5_100, test=60))

    def run(name: str, **changes: str) -> list:
        outcomes = []
        for unit in planned(TARGET, "smoke", 1, TINY | changes):
            if unit.name in ("fp32", name):
                folder = tmp_path / "".join(changes) / unit.name
                folder.mkdir(parents=True)
                inputs = {required: folder.parent / required for required in unit.requires}
                outcomes.append(TARGET.run(unit, Context(folder, inputs=inputs)))
        return outcomes

    return run


def test_the_test_set_is_read_once_at_the_end(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations: list[int] = []
    counted = experiment.correct

    def correct(network: torch.nn.Module, batches: object) -> np.ndarray:
        evaluations.append(1)
        return counted(network, batches)

    monkeypatch.setattr(experiment, "correct", correct)
    start, arm = run("swapped")
    assert len(evaluations) == 1 + len(BITS)
    assert [set(point) for point in arm.curve] == [{"epoch", "loss"}, {"epoch", "loss", *map(str, BITS)}]
    assert arm.values == arm.best
    assert len(arm.correct["2"]) == len(start.correct["32"]) == 40


def test_validation_reads_training_images_that_no_training_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def load_split(split: str, data_root: Path | None) -> CIFAR10:
        read.append(split)
        images = np.broadcast_to(np.arange(5_100, dtype=np.int64).reshape(-1, 1, 1, 1), (5_100, 3, 2, 2))
        return CIFAR10(images, np.arange(5_100) % 10)

    monkeypatch.setattr(cifar10, "load", load_split)
    settings = with_defaults(train_images=10_000, test_images=10_000, batch=10, validation=True)
    train, test = contest.PROBLEM.data.open(settings, Context(Path()))
    assert read == ["train"]
    assert len(test.images) == 5_000
    assert not set(train.images[:, 0, 0, 0]) & set(test.images[:, 0, 0, 0])


def records(gains: dict[str, float], seeds: int = 32) -> list[Record]:
    """Every arm at 50 and its gain, with noise that seeds share and a little of its own."""
    rng = np.random.default_rng(0)
    shared, hits = rng.normal(0, 1, 100), {"2": pack(np.zeros(8, bool))}
    found = []
    for unit in planned(TARGET, "cpu", seeds):
        value = 50 + float(shared[unit.seed]) + gains.get(unit.name, 0.0) + float(rng.normal(0, 0.1))
        values = dict.fromkeys(map(str, (*BITS, 32)), value)
        found.append(record_of(unit, values, correct=hits, wall_seconds=1.0))
    return found


def test_a_gain_and_an_equality_are_read_from_simultaneous_intervals() -> None:
    kept = evidence(TARGET, records({"coquant": 1.0, "adabits": -1.0}))
    found = {(row.row, row.claim): row for row in TARGET.rows(kept)}
    assert len(found) == 10
    assert [found["coquant", claim].verdict for claim in (GAINS, EQUALS)] == ["holds", "fails"]
    assert [found["adabits", claim].verdict for claim in (GAINS, EQUALS)] == ["fails", "fails"]
    assert found["selected", EQUALS].verdict == "holds"
    assert found["coquant", GAINS].n == 32
    assert found["coquant", GAINS].ours == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("coquant", "half", "adabits", "expected"),
    [
        ((-0.2, 0.4), (0.1, 0.6), (-2.0, -1.0), "gains"),
        ((-2.0, -1.0), (0.1, 0.6), (-2.0, -1.0), "gains"),
        ((-0.2, 0.4), (0.1, 0.4), (-2.0, -1.0), "distillation"),
        ((-0.2, 0.4), (0.1, 0.5), (-2.0, -1.0), "gains"),
        ((-0.2, 0.4), (-0.1, 0.5), (-2.0, -1.0), "inconclusive"),
        ((-2.0, -1.0), (-0.1, 0.6), (-0.1, 0.1), "inconclusive"),
        ((-2.0, -1.0), (-0.6, -0.1), (-2.0, -1.0), "loses"),
        ((-2.0, -1.0), (-0.4, -0.1), (-2.0, -1.0), "distillation"),
        ((-0.5, -0.1), (-0.5, -0.1), (-0.1, 0.1), "loses"),
        ((-0.6, 0.4), (-0.6, 0.4), (-0.1, 0.1), "nothing"),
        ((-0.1, 0.1), (-0.1, 0.1), (-0.4, -0.1), "nothing"),
        ((-0.1, 0.1), (-0.1, 0.1), (-0.6, 0.1), "open"),
        ((-0.1, 0.1), (-0.1, 0.1), (0.6, 0.9), "open"),
    ],
)
def test_the_first_conclusion_that_applies(coquant: tuple, half: tuple, adabits: tuple, expected: str) -> None:
    bounds = {"coquant": coquant, "coquant_half": half, "adabits": adabits, "selected": (5.0, 6.0)}
    found = {arm: Interval(sum(ends) / 2, *ends, 1.0, 32) for arm, ends in bounds.items()}
    assert contest.conclusion(found, margin=0.5) == expected


def test_every_conclusion_is_preregistered_and_needs_bounds() -> None:
    assert list(PLAN["conclusions"]) == ["gains", "inconclusive", "loses", "distillation", "nothing", "open"]
    bare = dict.fromkeys(PLAN["arms"], Interval(0.1, None, None, None, 1))
    with pytest.raises(ValueError, match="adabits: an interval without bounds"):
        contest.conclusion(bare, margin=0.5)


def test_a_smoke_run_has_a_page_and_no_conclusion() -> None:
    units = planned(TARGET, "smoke")
    found = [record_of(unit, dict.fromkeys(map(str, (*BITS, 32)), 50.0)) for unit in units]
    page = TARGET.summary(evidence(TARGET), evidence(TARGET, found, units))
    assert "## Runs: this machine smoke" in page
    assert "**" not in page


def test_the_page_says_its_conclusion_once_all_seeds_are_there() -> None:
    gains = {"coquant": -1.0, "adabits": -1.0}
    sentence = f"**{PLAN['conclusions']['distillation']}**"
    assert sentence in TARGET.summary(evidence(TARGET, records(gains)), evidence(TARGET))
    assert "**" not in TARGET.summary(evidence(TARGET, records(gains, seeds=31)), evidence(TARGET))


@pytest.mark.parametrize("seeds", [2, 10])
def test_nothing_is_decided_before_all_planned_seeds_are_there(seeds: int) -> None:
    found = records({"coquant": 1.0}, seeds=seeds)
    rows = TARGET.rows(evidence(TARGET, found))
    assert {(row.verdict, row.state, row.n) for row in rows} == {("", "missing", seeds)}
    asked = evidence(TARGET, found, planned(TARGET, "cpu", seeds))
    assert {(row.verdict, row.state, row.n) for row in TARGET.rows(asked)} == {("", "ok", seeds)}
    (gain,) = [row for row in rows if (row.row, row.claim) == ("coquant", GAINS)]
    assert (gain.low is not None) == (seeds == 10)


def test_one_missing_network_withholds_every_verdict() -> None:
    kept = [record for record in records({"coquant": 1.0}) if (record.unit, record.seed) != ("selected", 31)]
    assert {row.verdict for row in TARGET.rows(evidence(TARGET, kept))} == {""}


def test_more_seeds_can_be_planned_from_what_is_recorded() -> None:
    (design,) = TARGET.designs(evidence(TARGET, records({}, seeds=8)))
    assert (design.scale, design.n, design.comparisons, design.effect) == ("cpu", 8, len(PLAN["arms"]), PLAN["margin"])
    assert design.sd == pytest.approx(0.14, abs=0.08)
    assert design.seconds == 2 + len(PLAN["arms"])


def test_arms_are_called_confirmatory_where_the_records_were_made_under_the_plan() -> None:
    kept = [replace(record, preregistration=section_hash(PLAN)) for record in records({})]
    page = TARGET.summary(evidence(TARGET, kept), evidence(TARGET))
    assert page.count("| confirmatory ") == len(PLAN["arms"])
    assert page.count("| confirmatory, control ") == 1


def test_exploratory_arms_are_shown_without_a_verdict() -> None:
    gains = {"coquant": 1.0, "coquant_half": 0.4, "coquant_near": -2.0}
    page = TARGET.summary(evidence(TARGET, records(gains)), evidence(TARGET))
    assert "| confirmatory, control " not in page  # made under no plan
    assert "| exploratory, control " in page
    (line,) = [line for line in page.splitlines() if line.startswith("| CoQuant, teacher random ")]
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[2] == "exploratory"
    assert cells[-2] == "ok"
    assert not {"holds", "fails", "inconclusive"} & set(cells)
    assert "within 0.5 points" in page
    assert "before all 32 seeds" in page.replace("\n", " ")
    assert "What the intervals will mean, fixed beforehand:\nTwo arms answer" in page
    assert "## Protocol\n\n1. `cpu`: width 8" in page
    assert re.search(r"FP32 starts: \S+ ± \S+, 32 seeds\.", page)
    spread = re.search(
        r"under 7 sets of its constants, over the 8 seeds that all have: from (\S+) \(.*?\) to (\S+) \(", page
    )
    assert spread
    assert [float(gain) for gain in spread.groups()] == pytest.approx([-2.0, 1.0], abs=0.2)
    assert "lambda_end 0.02" in page
    assert re.search(
        r"Less AdaBits at 2 bits, by seed, exploratory, .*; CoQuant \+[.\d]+ \(\S+ to \S+\), n = 32; ", page
    )
