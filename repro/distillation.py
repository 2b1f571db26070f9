"""Distillation, one of the seminar's techniques: a 2-bit student with and without a teacher.

    without: L = CE(z, y)
    with:    L = w_hard CE(z, y) + w_soft T^2 KL(softmax(t / T) || softmax(z / T))

z and t are the logits of student and teacher, y the label. The teacher is the FP32 network that both students start
from. The weights add up to 1, so that a teacher does not come with a larger loss. The seminar prints no number for
this: claim, margin and protocol are ours.

Both students are Table 1's individual 2-bit network. What differs from Table 1 at the same scale, numbered:

1. `cpu`: 15,000 training images (Table 1: 20,000), 12 FP32 and 4 quantized epochs (Table 1: 20 and 3), which brings a
   seed to half an hour of an old core that does nothing else (its records say what busy ones took).
2. `cpu`: quantized weights learn at .005 (Table 1: .05, chosen later).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repro.adaptive.layout import REDUCED
from repro.adaptive.methods import FLOAT, INDIVIDUAL, METHODS
from repro.adaptive.problems import CIFAR10, RESNET18, Problem
from repro.adaptive.settings import ARTEFACT, START, TRAINED, Setting, check, left_out, of_unit, with_defaults
from repro.evidence.claims import Row
from repro.evidence.collection import Evidence
from repro.evidence.patterns import pattern_rows, pattern_table
from repro.evidence.records import unpack
from repro.evidence.render import markdown_table, mean_text, page_text, settings_text, write_page
from repro.targets import Context, Outcome, Scalar, Unit

NUMERICS = 1
"""Raised by hand when the code changes what a unit computes."""

PROBLEM = Problem(RESNET18, CIFAR10)
BITS = 2
COLUMN = str(BITS)
STUDENT = METHODS[INDIVIDUAL].unit(BITS)
DISTILLED = f"distilled_{BITS}"
LABELS = {
    (FLOAT, "32"): "FP32: start of both, and the teacher",
    (STUDENT, COLUMN): "2 bit, from labels alone",
    (DISTILLED, COLUMN): "2 bit, from labels and teacher",
}
"""What the network of a unit is, by unit and column."""

_LOSS = (
    Setting("hard_weight", 0.5, 0, 100, "w_hard, of cross-entropy with the labels", ".1, 1"),
    Setting("soft_weight", 0.5, 1e-6, 100, "w_soft, of the divergence from the teacher", ".9, 1"),
    Setting("temperature", 4.0, 1e-2, 1e3, "T, that softens the outputs of both", "1, 2, 20"),
)
LOSS = {setting.name: setting for setting in _LOSS}
"""Settings of the student with a teacher, beside those of the one without."""
_START = (*PROBLEM.settings, *START)


@dataclass(frozen=True)
class DistillationStudy:
    """The target; see `repro.targets.Target`."""

    name: str = "distillation"
    title: str = "Distillation: a 2-bit student with and without a teacher"
    kind: str = "table"
    needs: tuple[str, ...] = PROBLEM.data.needs
    artefact: str = ARTEFACT
    values_unit: str = "% top-1"
    scales: Mapping[str, Mapping[str, Scalar]] = field(
        default_factory=lambda: {
            "smoke": _scale(width=8, train_images=10_000, test_images=2_000, fp32_epochs=3, epochs=1),
            "cpu": _scale(width=16, train_images=15_000, fp32_epochs=12, epochs=4, weight_lr=0.005),
        }
    )
    seeds: Mapping[str, int] = field(default_factory=lambda: {"smoke": 1, "cpu": 3})

    def units(self, scale: str, seeds: int, settings: Mapping[str, Scalar]) -> list[Unit]:
        """The FP32 start, and the two students that start from it, of each seed."""
        check({name: value for name, value in settings.items() if name not in LOSS})
        for name, setting in LOSS.items():
            setting.check(settings[name])
        own = {FLOAT: of_unit(settings, _START), STUDENT: of_unit(settings, (*_START, *TRAINED))}
        own[DISTILLED] = own[STUDENT] | {name: settings[name] for name in LOSS}
        return [
            Unit(self.name, scale, unit, seed, kept, NUMERICS, (FLOAT,) * (unit != FLOAT))
            for seed in range(seeds)
            for unit, kept in own.items()
        ]

    def run(self, unit: Unit, context: Context) -> Outcome:
        """Train the unit as Table 1 would, but for the loss of the student with a teacher."""
        from torch import nn

        from repro.adaptive import experiment
        from repro.training.distillation import Distillation, training_step
        from repro.training.loop import Step, load

        if unit.name != DISTILLED:
            return experiment.run(unit, context, PROBLEM)
        settings: dict[str, Any] = with_defaults(**unit.settings)
        teacher = experiment.float_network(PROBLEM, settings, unit.seed).to(context.device)
        teacher.load_state_dict(load(context.inputs[FLOAT] / self.artefact, context.device))
        loss = Distillation(**{name: settings[name] for name in LOSS})

        def taught(student: nn.Module, steps: int) -> Step:
            return training_step(student, teacher=teacher, loss=loss)

        return experiment.run(replace(unit, name=STUDENT), context, PROBLEM, step_of=taught)

    def rows(self, evidence: Evidence) -> list[Row]:
        """The preregistered patterns."""
        return pattern_rows(evidence, evidence.values, "cpu")

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        """`distillation.csv` and `distillation.md`."""
        return write_page(self.name, self.rows(evidence), self._page({"": evidence}, evidence), folder)

    def summary(self, committed: Evidence, local: Evidence) -> str:
        """Committed and local runs seed by seed, and the claim judged on the committed ones."""
        return self._page({"committed": committed, "this machine": local}, committed)

    def _page(self, sources: Mapping[str, Evidence], judged: Evidence) -> str:
        claims = f"## Does a teacher help?\n\n{pattern_table(self.rows(judged), judged.preregistered, judged.values)}"
        return page_text(self.title, [CAPTION, claims], sources, _runs)


def _scale(**changed: Scalar) -> dict[str, Scalar]:
    """Settings of a scale: Table 1's that matter here, with the stem of its reduced scales, and those of the loss."""
    defaults = {name: value for name, value in with_defaults(stem_stride=2).items() if name in (*_START, *TRAINED)}
    return {**defaults, **{name: setting.default for name, setting in LOSS.items()}, **changed}


def _runs(name: str, evidence: Evidence, scale: str) -> str:
    """One store's runs at one scale: accuracies by seed, the difference, and how well seeds pair the two students."""
    values = {unit: evidence.values(scale, unit, column) for unit, column in LABELS}
    plain, taught = values[STUDENT], values[DISTILLED]
    seeds = sorted({seed for found in values.values() for seed in found})
    both = sorted(plain.keys() & taught.keys())
    lines = [(label, *_cells(values[unit], seeds, "")) for (unit, _), label in LABELS.items()]
    lines.append(("what the teacher adds", *_cells({seed: taught[seed] - plain[seed] for seed in both}, seeds, "+")))
    only = {seed: _discordant(evidence, scale, seed) for seed in both}
    lines.append(
        (
            "test images right only with, only without",
            *("{}, {}".format(*only[seed]) if seed in only else "–" for seed in seeds),
            "",
        )
    )
    header = ("network", *(f"seed {seed}" for seed in seeds), "mean ± sd")
    return "\n".join(
        (
            f"## Runs: {name}\n",
            markdown_table(header, lines, "l" + "r" * (len(seeds) + 1)),
            f"`{scale}`: {REDUCED[scale]}; {settings_text(evidence.at(scale), left_out((*_START, *TRAINED)))}.\n",
        )
    )


def _cells(values: Mapping[int, float], seeds: Sequence[int], sign: str) -> list[str]:
    """Values by seed, then their mean and standard deviation."""
    cells = [f"{values[seed]:{sign}.2f}" if seed in values else "–" for seed in seeds]
    return [*cells, mean_text(values.values(), 2, sign)]


def _discordant(evidence: Evidence, scale: str, seed: int) -> tuple[int, int]:
    """Test images that one seed's student gets right only with the teacher, and only without."""
    taught, plain = (unpack(evidence.seeds(scale, unit)[seed].correct[COLUMN]) for unit in (DISTILLED, STUDENT))
    return int((taught & ~plain).sum()), int((plain & ~taught).sum())


CAPTION = """\
ResNet18 on CIFAR-10, weights and activations at 2 bits (stem and classifier in full precision). Both students start
from one FP32 network per seed and see the same images in the same order; one learns from labels, the other from
labels and from the softened outputs of the FP32 network. Top-1 accuracy in percent after the last epoch. The seminar
prints no number for this technique: everything here is ours, and exploratory.
"""

TARGET = DistillationStudy()
