"""The contest at 2 bits: does CoQuant gain over plain distillation, or is its gain distillation's?

Arms differ in who teaches a bit-width and in whether blocks are swapped for the teacher's. All start, by seed, from one
FP32 network (so there are as many starts as seeds) and see the same images in the same order. Each arm but the control,
plain distillation from the highest bit-width, is compared with it by seed:

    d = acc_2(arm) - acc_2(distilled),    d -+ c s / sqrt(n), c for all arms at once

Six arms, the control among them, are confirmatory: planned, n fixed, the test set read once. The rest of the grid is
exploratory and runs afterwards, on fewer seeds, the last. The half-size protocol, numbered:

1. `cpu`: width 8 (Table 1: 16 at this scale, 64 in print), stem of stride 2, 12 FP32 and 3 quantized epochs on 10,000
   training images, which are the same for all seeds: intervals are over starts and orders. Three epochs are few for
   swapping, which is rarest at their end; more would not have fitted in the time. Nor have the starts converged (54 %),
   so that the quantized epochs finish float training, too.
2. All scales: 5,000 training images are held out for validation (`--set validation=yes` tests on them), and the loss of
   a taught bit-width is divided by the sum of its weights: plain cross-entropy and Any Precision have the same scale.
   So the arm CoQuant is not Table 1's, whose losses add up. Gradients are not matched: where a block is swapped for the
   teacher's, its weights learn nothing from that pass.
3. All arms share learning rates, and none was tuned for an arm, where equal trials for each would be better: the
   weights' was chosen from two values for an individual 2-bit network, on images held out. What the paper leaves open
   is varied instead: CoQuant has seven sets of constants (of which summed entropy and lambda 0 came to the same), plain
   distillation three. That p, the probability that a block is not swapped, may start at one half comes from trials that
   were tested on the test set.
4. Weights have Table 1's nested codes; the study `identification` is about others.
5. Any Precision differs from plain distillation in three things: its teacher, the next higher bit-width; no labels
   below 8 bits; one clip level for all bit-widths, which learns from four gradients at the full rate.
6. Other readings of CoQuant's selection: entropy summed over the batch (`entropy summed`), as if lambda were smaller by
   the batch of 128; distance summed over a layer's weights (`distance summed`), as if lambda were larger by their
   number, so that nearness soon decides alone. Selection for each image was not tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.adaptive.layout import REDUCED
from repro.adaptive.methods import BITS, FLOAT, FLOAT_BITS, METHODS, Method, Recipe
from repro.adaptive.problems import HELD_OUT_CIFAR10, RESNET18, Problem
from repro.adaptive.settings import ARTEFACT, COMMON, SETTINGS, START, Setting, check, left_out, of_unit
from repro.adaptive.table import of_method, own_settings
from repro.evidence.claims import Contrast, Row, judge_interval
from repro.evidence.collection import Evidence
from repro.evidence.intervals import FEWEST_FLIPPED, Interval, paired_difference, pairing, simultaneous
from repro.evidence.patterns import pattern_row
from repro.evidence.power import Design
from repro.evidence.render import markdown_table, mean_text, number, page_text, settings_text, write_page
from repro.targets import Context, Outcome, Scalar, Unit

NUMERICS = 1
"""Raised by hand when the code changes what a unit computes."""

PROBLEM = Problem(RESNET18, HELD_OUT_CIFAR10)
COQUANT = METHODS["coquant"]
CONSTANTS: dict[str, tuple[Method, str, dict[str, Scalar]]] = {
    "coquant_half": (COQUANT, "p from one half", {"swap_start": 0.5}),
    "coquant_alike": (COQUANT, "p alike for all blocks", {"swap_by_depth": False}),
    "coquant_confident": (COQUANT, "lambda 0", {"lambda_end": 0.0}),
    "coquant_near": (COQUANT, "lambda to 1", {"lambda_end": 1.0}),
    "coquant_summed": (COQUANT, "entropy summed", {"entropy": "sum"}),
    "coquant_far": (COQUANT, "distance summed", {"distance": "sum"}),
    "distilled_warm": (METHODS["distilled"], "temperature 4", {"temperature": 4.0}),
    "distilled_light": (METHODS["distilled"], "half the weight", {"soft_weight": 0.5}),
}
"""Arms under other constants: whose they are, in words, and the settings that differ."""
_HALF, *_OTHERS = (Method(name, f"{arm.label}, {words}", arm.recipe) for name, (arm, words, _) in CONSTANTS.items())
CONFIRMATORY = (
    METHODS["adabits"],
    METHODS["any_precision"],
    METHODS["distilled"],
    METHODS["selected"],
    COQUANT,
    _HALF,
)
EXPLORATORY = (
    Method("swapped", "Swapping alone", Recipe(FLOAT, teacher="selected", soft_target=False, swapped=True)),
    METHODS["highest_swapped"],
    METHODS["nearest"],
    METHODS["nearest_swapped"],
    Method("random", "Distillation from a random bit-width", Recipe(FLOAT, teacher="random")),
    Method("random_swapped", "CoQuant, teacher random", Recipe(FLOAT, teacher="random", swapped=True)),
    *_OTHERS,
)
ARMS = {arm.name: arm for arm in (*CONFIRMATORY, *EXPLORATORY)}
FEWER = Setting("exploratory_seeds", 8, 1, 1000, "seeds of the exploratory arms, the last; no unit depends on it")
GAINS, EQUALS = "gains_over_distillation", "equals_distillation"
ANSWERS, BASELINE = {COQUANT.name, "coquant_half"}, METHODS["adabits"].name
"""Arms that the preregistered conclusions speak of: the two that answer, and what distillation is compared with."""


@dataclass(frozen=True)
class Contest:
    """The target; see `repro.targets.Target`."""

    name: str = "contest"
    title: str = "The contest at 2 bits: CoQuant against plain distillation"
    kind: str = "table"
    needs: tuple[str, ...] = PROBLEM.data.needs
    artefact: str = ARTEFACT
    values_unit: str = "% top-1"
    scales: Mapping[str, Mapping[str, Scalar]] = field(
        default_factory=lambda: {
            "smoke": _scale(train_images=1_000, test_images=500, fp32_epochs=2, epochs=1),
            "cpu": _scale(train_images=10_000, fp32_epochs=12, epochs=3),
        }
    )
    seeds: Mapping[str, int] = field(default_factory=lambda: {"smoke": 1, "cpu": 32})

    def units(self, scale: str, seeds: int, settings: Mapping[str, Scalar]) -> list[Unit]:
        """Every confirmatory arm at seed 0, then at seed 1, and so on; the exploratory arms after all of these."""
        check({name: value for name, value in settings.items() if name in SETTINGS})
        FEWER.check(settings[FEWER.name])
        fewer = min(seeds, int(settings[FEWER.name] or 0))
        planned: list[tuple[int, Method | None]] = []
        planned += [(seed, arm) for seed in range(seeds) for arm in (None, *CONFIRMATORY)]
        planned += [(seed, arm) for seed in range(seeds - fewer, seeds) for arm in EXPLORATORY]
        return [self._unit(scale, seed, arm, settings) for seed, arm in planned]

    def _unit(self, scale: str, seed: int, arm: Method | None, settings: Mapping[str, Scalar]) -> Unit:
        names = [*PROBLEM.settings, *START, "test_once"]
        if arm is None:
            return Unit(self.name, scale, FLOAT, seed, of_unit(settings, names), NUMERICS)
        names += ["matched_loss"] if arm.recipe.teacher and arm.recipe.soft_target else []
        _, _, changed = CONSTANTS.get(arm.name, (arm, "", {}))
        own = of_unit(settings, names) | of_method(settings, arm) | changed
        return Unit(self.name, scale, arm.name, seed, own, NUMERICS, (FLOAT,))

    def run(self, unit: Unit, context: Context) -> Outcome:
        """Train the unit as Table 1 would a row of this recipe."""
        from repro.adaptive.experiment import run

        arm = ARMS.get(unit.name)
        return run(unit, context, PROBLEM, recipe=arm.recipe if arm else None)

    def designs(self, evidence: Evidence) -> list[Design]:
        """What `python -m repro plan` needs to know: the widest of the confirmatory differences, at each scale."""
        plan = evidence.preregistered
        units = (FLOAT, plan["control"], *plan["arms"])
        found = {scale: [i for i in _differences(evidence, scale).values() if i and i.sd] for scale in evidence.scales}
        return [
            Design(
                f"{plan['column']} bits, the widest arm",
                scale,
                max(interval.sd or 0 for interval in intervals),
                intervals[0].n,
                len(plan["arms"]),
                evidence.core_seconds(scale, units),
                plan["margin"],
                FEWEST_FLIPPED,
            )
            for scale, intervals in found.items()
            if intervals
        ]

    def rows(self, evidence: Evidence) -> list[Row]:
        """For each confirmatory arm: does it gain over plain distillation, and is it equal within the margin?"""
        return [
            row
            for scale in evidence.judged_scales("cpu")
            for row in _rows(evidence, scale, _differences(evidence, scale))
        ]

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        """`contest.csv` and `contest.md`."""
        return write_page(self.name, self.rows(evidence), self._page({"": evidence}), folder)

    def summary(self, committed: Evidence, local: Evidence) -> str:
        """Committed and local runs, each judged on its own."""
        return self._page({"committed": committed, "this machine": local})

    def _page(self, sources: Mapping[str, Evidence]) -> str:
        plan = next(iter(sources.values())).preregistered
        reading = CAPTION.format(
            margin=plan["margin"],
            n=plan["seeds"]["cpu"],
            n_rule=plan["n_rule"],
            reading=plan["reading"],
            conclusions="\n".join(f"* {sentence}" for sentence in plan["conclusions"].values()),
        )
        _, _, protocol = (__doc__ or "").partition("numbered:\n\n")
        return page_text(self.title, [reading, f"## Protocol\n\n{protocol}"], sources, _section)


def _scale(**changed: Scalar) -> dict[str, Scalar]:
    """Settings of a scale: those of the problem and of the arms, on the half-size network, the test set read once."""
    names = dict.fromkeys((*PROBLEM.settings, *START, *(name for arm in ARMS.values() for name in own_settings(arm))))
    fixed = {"width": 8, "stem_stride": 2, "matched_loss": True, "test_once": True}
    return {**{name: SETTINGS[name].default for name in names}, **fixed, FEWER.name: FEWER.default, **changed}


def _differences(evidence: Evidence, scale: str) -> dict[str, Interval | None]:
    """Each confirmatory arm less the control, over the seeds that all of them have; one interval for all at once."""
    import numpy as np

    plan = evidence.preregistered
    values = {name: evidence.values(scale, name, plan["column"]) for name in (plan["control"], *plan["arms"])}
    seeds = sorted(set.intersection(*map(set, values.values())))
    if not seeds:
        return dict.fromkeys(plan["arms"])
    control = values[plan["control"]]
    differences = [[values[arm][seed] - control[seed] for arm in plan["arms"]] for seed in seeds]
    return dict(zip(plan["arms"], simultaneous(differences, rng=np.random.default_rng(0)), strict=True))


def _rows(evidence: Evidence, scale: str, differences: Mapping[str, Interval | None]) -> list[Row]:
    plan, rows = evidence.preregistered, []
    units, column = (plan["control"], *plan["arms"]), plan["column"]
    complete, (state, reason) = evidence.complete(scale, units), evidence.worst(scale, units)
    for arm, found in differences.items():
        terms = {(arm, plan["column"]): 1.0, (plan["control"], plan["column"]): -1.0}
        claims = Contrast(GAINS, terms, "above"), Contrast(EQUALS, terms, "within", plan["margin"])
        rows += [
            pattern_row(
                evidence.target,
                claim.label,
                judge_interval(claim, found).once(complete),
                scale,
                state,
                reason,
                row=arm,
                column=column,
            )
            for claim in claims
        ]
    return rows


def conclusion(found: Mapping[str, Interval], margin: float) -> str:
    """Which of the preregistered conclusions the arms' intervals come to. Raises `ValueError` for one without bounds.

    >>> apart = {"coquant": Interval(0.9, 0.6, 1.2, 0.8, 32), "coquant_half": Interval(0.1, -0.2, 0.4, 0.8, 32)}
    >>> conclusion(apart | {"adabits": Interval(-1.0, -1.3, -0.7, 0.8, 32)}, margin=0.5)
    'gains'
    """
    equal, gains, loses, reaching = set(), set(), set(), set()
    for arm, interval in found.items():
        if interval.low is None or interval.high is None:
            raise ValueError(f"{arm}: an interval without bounds")
        if interval.high >= margin:
            reaching.add(arm)
        if -margin < interval.low and interval.high < margin:
            equal.add(arm)
        elif interval.low > 0:
            gains.add(arm)
        elif interval.high < 0:
            loses.add(arm)
    if gains & ANSWERS:
        return "gains"
    if reaching & ANSWERS:
        return "inconclusive"
    if loses >= ANSWERS:
        return "loses"
    if BASELINE in loses:
        return "distillation"
    return "nothing" if BASELINE in equal else "open"


def _section(name: str, evidence: Evidence, scale: str) -> str:
    """One store's runs at one scale: accuracies of every arm, what it gains at 2 bits, and how well seeds pair."""
    plan, found = evidence.preregistered, _differences(evidence, scale)
    verdicts = {(row.row, row.claim): row.verdict for row in _rows(evidence, scale, found)}
    answer = ""
    if scale in plan["seeds"] and all(verdicts.values()):
        key = conclusion({arm: interval for arm, interval in found.items() if interval}, plan["margin"])
        answer = f"**{plan['conclusions'][key]}**\n\n"
    lines = [
        _line(
            arm,
            evidence,
            scale,
            found.get(arm.name),
            [verdicts.get((arm.name, claim), "") for claim in (GAINS, EQUALS)],
        )
        for arm in ARMS.values()
    ]
    header = (
        "arm", "study", *(f"{bits} bit" for bits in BITS), "n", "gain at 2 bits", "95 % interval", "gains", "equal",
        "correlation", "variance ratio", "state",
    )  # fmt: skip
    records = [record for record in evidence.at(scale) if record.unit not in CONSTANTS]
    where = "held-out training images" if records[0].settings["validation"] else "the test set, read once"
    starts = list(evidence.values(scale, FLOAT, str(FLOAT_BITS)).values())
    processors = Counter(record.cpu for record in records if record.unit == FLOAT)
    return (
        f"## Runs: {name}\n\nFP32 starts: {mean_text(starts, 2)}, {len(starts)} seeds.\n\n"
        f"{markdown_table(header, lines, 'll' + 'r' * 7 + 'll' + 'rrl')}\n{answer}"
        f"{_spread(evidence, scale)}"
        f"{_less(evidence, scale, BASELINE, (plan['control'], *sorted(ANSWERS), 'swapped'))}"
        f"{_less(evidence, scale, 'selected', sorted(ANSWERS))}"
        f"`{scale}`: {REDUCED[scale]}; {evidence.study(scale)}; accuracies on {where}; seeds by processor: "
        f"{', '.join(f'{cpu} {n}' for cpu, n in sorted(processors.items()))}; "
        f"{settings_text(records, left_out((*PROBLEM.settings, *COMMON)))}.\n"
    )


def _spread(evidence: Evidence, scale: str) -> str:
    """How far CoQuant's gain moves with the constants that the paper leaves open."""
    column, control = evidence.preregistered["column"], evidence.preregistered["control"]
    taught = evidence.values(scale, control, column)
    sets = [COQUANT.name, *(name for name, (arm, *_) in CONSTANTS.items() if arm is COQUANT)]
    runs = [evidence.values(scale, name, column) for name in sets]
    seeds = set(taught).intersection(*runs)
    if not seeds:
        return ""
    gains = sorted((paired_difference({s: run[s] for s in seeds}, taught) for run in runs), key=lambda gain: gain[0])
    words = f"CoQuant's gain under {len(gains)} sets of its constants, over the {len(seeds)} seeds that all have"
    return f"{words}: from {gains[0].text()} to {gains[-1].text()}.\n\n"


def _less(evidence: Evidence, scale: str, other: str, names: Sequence[str]) -> str:
    """How far arms are from another one than the control, each with an interval of its own."""
    column = evidence.preregistered["column"]
    theirs, found = evidence.values(scale, other, column), []
    for name in names:
        own = evidence.values(scale, name, column)
        if own.keys() & theirs.keys():
            gain = paired_difference(own, theirs)
            found.append(f"{ARMS[name].label} {gain.text()}, n = {gain.n}")
    words = f"Less {ARMS[other].label} at {column} bits, by seed, exploratory, each with an interval of its own"
    return f"{words}: {'; '.join(found)}.\n\n" if found else ""


def _line(
    arm: Method, evidence: Evidence, scale: str, found: Interval | None, verdicts: Sequence[str]
) -> tuple[str, ...]:
    """An exploratory arm gets the interval of its own difference alone, and no verdict."""
    plan = evidence.preregistered
    cells = [list(evidence.values(scale, arm.name, str(bits)).values()) for bits in BITS]
    own, control = (evidence.values(scale, unit, plan["column"]) for unit in (arm.name, plan["control"]))
    (study, *_), (state, reason) = evidence.study(scale).split(","), evidence.state(scale, arm.name)
    if arm not in CONFIRMATORY:
        study = "exploratory"
        found = paired_difference(own, control) if own.keys() & control.keys() else None
    paired = pairing(own, control) if arm.name != plan["control"] else None
    return (
        arm.label,
        study if paired else f"{study}, control",
        *(mean_text(values, 2) for values in cells),
        str(len(own)),
        f"{found.estimate:+.2f}" if found else "",
        found.span() if found else "",
        *verdicts,
        number(paired.correlation, 2) if paired else "",
        number(paired.variance_ratio, 2) if paired else "",
        f"{state} ({reason})" if reason else state,
    )


CAPTION = """\
ResNet18 on CIFAR-10. Top-1 accuracy in percent after the last epoch, mean and standard deviation over an arm's own
seeds; each seed has an FP32 start of its own, shared by all arms. The gain is the arm less plain distillation from the
highest bit-width, by seed: compare arms by it, not by their means. *gains*: its interval lies above 0 (an arm that is
also equal counts as equal below); *equal*: it lies within {margin} points. The intervals of the confirmatory arms cover
together, and neither is said before all {n} seeds of all of them are recorded; an exploratory arm has an interval of
its own, and no verdict. The seminar prints no number for plain distillation: question, arms and margin are ours, and a
null speaks of our reconstruction.

The number of seeds:
{n_rule}

What the intervals will mean, fixed beforehand:
{reading}

{conclusions}
"""

TARGET = Contest()
