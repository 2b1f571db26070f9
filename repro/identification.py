"""Which quantizer do the DQ rows of Tables 1 and 2 speak for? Candidates ranked by how well they fit the print.

The rows DQ (32 bit) and DQ (8 bit), each with and without BN calibration, need no joint training: a float network, or
an individual 8-bit one, is cut down to fewer bits. Candidates are weight schemes and, for DQ (32 bit), rules that set
the clip levels. Networks of different strength are compared by what is left, above chance, of the accuracy at full
strength: ours of the FP32 start, which is the same for every candidate, in print of the individual 8-bit network, as no
FP32 accuracy is printed:

    left   = 100 (acc - 10) / (acc_full - 10)
    misfit = sqrt(mean over the 32 cells of (left of ours - left of print)^2)      in points

The print gives no number for any candidate: the study is exploratory, and its protocol is ours. What differs from the
tables at the same scale, numbered:

1. `cpu`: 15,000 training images and 12 FP32 epochs (Table 1: 20,000 and 20; Table 2: 16,000 and 20); BN calibration on
   5,000 images (10,000).
2. All scales: tested on training images that are held out (5,000 at `cpu`), as what fits best is a choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from repro.adaptive.layout import REDUCED
from repro.adaptive.methods import BITS, FLOAT, FLOAT_BITS, INDIVIDUAL, METHODS, unit_of
from repro.adaptive.problems import HELD_OUT_CIFAR10, MOBILENETV2, RESNET18, Problem
from repro.adaptive.settings import (
    ARTEFACT,
    CALIBRATED,
    START,
    STRUCTURE,
    TESTED,
    TRAINED,
    check,
    left_out,
    of_unit,
    with_defaults,
)
from repro.evidence.claims import Row
from repro.evidence.collection import Evidence
from repro.evidence.intervals import paired_difference
from repro.evidence.patterns import pattern_rows, pattern_table
from repro.evidence.render import markdown_table, mean_text, page_text, settings_text, write_page
from repro.published import PublishedTable, table
from repro.targets import Context, Outcome, Scalar, Unit

NUMERICS = 1
"""Raised by hand when the code changes what a unit computes."""

PROBLEMS = {"table1": Problem(RESNET18, HELD_OUT_CIFAR10), "table2": Problem(MOBILENETV2, HELD_OUT_CIFAR10)}
SCHEMES = {
    "nested": "nested codes, means realigned (ours elsewhere)",
    "nearest": "DoReFa, rounded at each bit-width",
    "floor": "AdaBits",
    "centred": "AdaBits, centred",
    "nested_restored": "nested codes, scale restored",
    "nearest_restored": "DoReFa, scale restored",
}
"""Weight schemes in words, by name (the setting `weights` of the tables)."""
ALPHAS: Mapping[str, float | None] = {"percentile": 99.9, "maximum": 100.0, "start": None}
"""Clip levels of DQ (32 bit): a percentile of each float activation, or PACT's start as it is."""
TOP = 8
TRUNCATED = ("dq8", "dq8_bn_calib")
FROM_FLOAT = ("dq32", "dq32_bn_calib")
CHANCE = 100 / HELD_OUT_CIFAR10.classes
NEAR = 5.0
"""Points within which a cell counts as met."""


@dataclass(frozen=True)
class Identification:
    """The target; see `repro.targets.Target`."""

    name: str = "identification"
    title: str = "Which quantizer do the DQ rows speak for?"
    kind: str = "table"
    needs: tuple[str, ...] = HELD_OUT_CIFAR10.needs
    artefact: str = ARTEFACT
    values_unit: str = "% top-1"
    scales: Mapping[str, Mapping[str, Scalar]] = field(
        default_factory=lambda: {
            "smoke": _scale(
                width=8, width_multiplier=0.25, train_images=2_000, test_images=500, fp32_epochs=2, epochs=1,
                alpha_images=200, bn_images=1_024,
            ),
            "cpu": _scale(
                width=16, width_multiplier=0.25, train_images=15_000, test_images=5_000, fp32_epochs=12, epochs=3,
                test_once=True, bn_images=5_000,
            ),
        }
    )  # fmt: skip
    seeds: Mapping[str, int] = field(default_factory=lambda: {"smoke": 1, "cpu": 3})

    def units(self, scale: str, seeds: int, settings: Mapping[str, Scalar]) -> list[Unit]:
        """The FP32 start of each table, then every scheme's individual 8-bit network and what is cut from both."""
        check(settings)
        return [unit for seed in range(seeds) for name in PROBLEMS for unit in self._units(name, scale, seed, settings)]

    def _units(self, name: str, scale: str, seed: int, settings: Mapping[str, Scalar]) -> Iterator[Unit]:
        def unit(method: str, start: str | None, *own: str, **fixed: Scalar) -> Unit:
            keys = (*PROBLEMS[name].settings, *START, *own)
            requires = (f"{name}-{start}",) * (start is not None)
            chosen = of_unit(settings, keys) | fixed
            return Unit(self.name, scale, f"{name}-{method}", seed, chosen, NUMERICS, requires)

        yield unit(FLOAT, None)
        top = METHODS[INDIVIDUAL].unit(TOP)
        for scheme in SCHEMES:
            trained = (*TRAINED, *TESTED, *STRUCTURE)
            yield unit(f"{scheme}-{top}", FLOAT, *trained)
            for method in TRUNCATED:
                yield unit(f"{scheme}-{method}", f"{scheme}-{top}", *trained, *_calibrated(method))
            for alpha, percentile in ALPHAS.items():
                own = ("alpha_start" if percentile is None else "alpha_images", *STRUCTURE)
                for method in FROM_FLOAT:
                    yield unit(
                        f"{scheme}-{alpha}-{method}", FLOAT, *own, *_calibrated(method), alpha_percentile=percentile
                    )

    def run(self, unit: Unit, context: Context) -> Outcome:
        """Run the unit as its table would, but for the weight scheme."""
        from repro.adaptive import experiment

        name, *scheme, method = unit.name.split("-")
        if method == FLOAT:
            return experiment.run(replace(unit, name=method), context, PROBLEMS[name])
        unit = replace(unit, name=method, settings={**unit.settings, "weights": scheme[0]})
        (folder,) = context.inputs.values()
        inputs = {unit_of(method)[0].recipe.start: folder}
        return experiment.run(unit, replace(context, inputs=inputs), PROBLEMS[name])

    def rows(self, evidence: Evidence) -> list[Row]:
        """The preregistered patterns: contrasts of misfits."""
        return pattern_rows(evidence, partial(_cell, evidence), "cpu", _units_of)

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        """`identification.csv` and `identification.md`."""
        return write_page(self.name, self.rows(evidence), self._page({"": evidence}, evidence), folder)

    def summary(self, committed: Evidence, local: Evidence) -> str:
        """The ranking on committed and on local runs, and the claims judged on the committed ones."""
        return self._page({"committed": committed, "this machine": local}, committed)

    def _page(self, sources: Mapping[str, Evidence], judged: Evidence) -> str:
        claims = f"## Claims\n\n{pattern_table(self.rows(judged), judged.preregistered, partial(_cell, judged))}"
        _, _, protocol = (__doc__ or "").partition("numbered:\n\n")
        other = f"## What differs from the tables\n\n{protocol}"
        return page_text(self.title, [CAPTION, claims, other], sources, _ranking)


def _scale(**changed: Scalar) -> dict[str, Scalar]:
    """Settings of a scale: those of Tables 1 and 2 that matter here, with the stem of their reduced scales."""
    names = {name for problem in PROBLEMS.values() for name in problem.settings}
    names |= {*START, *TRAINED, *TESTED, *STRUCTURE, *CALIBRATED, "alpha_images"}
    fixed = with_defaults(stem_stride=2, validation=True)
    return {name: value for name, value in fixed.items() if name in names} | changed


def _calibrated(method: str) -> tuple[str, ...]:
    return CALIBRATED if method.endswith("_bn_calib") else ()


def left(accuracy: float, full: float) -> float:
    """What is left of the accuracy `full`, above chance, in percent.

    >>> left(10.0, 90.0), left(50.0, 90.0), left(90.0, 90.0)
    (0.0, 50.0, 100.0)
    """
    return 100 * (accuracy - CHANCE) / (full - CHANCE)


def relative(
    evidence: Evidence, scale: str, name: str, scheme: str, alpha: str, own: bool = False
) -> dict[int, dict[tuple[str, int], float]]:
    """What is left of the FP32 start's accuracy, by seed and then by (method, bits).

    With `own`, of DQ (8 bit): what is left of the accuracy of the scheme's individual 8-bit network. Seeds that lack a
    cell, or whose full accuracy is chance, are left out.
    """
    units = {method: f"{name}-{scheme}-{method}" for method in TRUNCATED}
    units |= {method: f"{name}-{scheme}-{alpha}-{method}" for method in FROM_FLOAT}
    cells = {(method, bits): evidence.values(scale, unit, str(bits)) for method, unit in units.items() for bits in BITS}
    start = evidence.values(scale, f"{name}-{FLOAT}", str(FLOAT_BITS))
    full = dict.fromkeys(units, start) | dict.fromkeys(TRUNCATED if own else (), _top(evidence, scale, name, scheme))
    able = [{seed for seed, accuracy in each.items() if accuracy > CHANCE} for each in full.values()]
    return {
        seed: {(method, bits): left(values[seed], full[method][seed]) for (method, bits), values in cells.items()}
        for seed in sorted(set.intersection(*able, *map(set, cells.values())))
    }


def _top(evidence: Evidence, scale: str, name: str, scheme: str) -> dict[int, float]:
    """Accuracy of the scheme's individual 8-bit network, by seed."""
    return evidence.values(scale, f"{name}-{scheme}-{METHODS[INDIVIDUAL].unit(TOP)}", str(TOP))


def _printed(printed: PublishedTable, method: str, bits: int) -> float:
    return left(float(printed.cell(method, bits)), float(printed.cell(INDIVIDUAL, TOP)))


def differences(
    evidence: Evidence, scale: str, scheme: str, alpha: str, names: Sequence[str], own: bool = False
) -> dict[int, list[float]]:
    """Ours less print of every cell of the named tables, in points, by seed; `own` as in `relative`."""
    found = {name: relative(evidence, scale, name, scheme, alpha, own) for name in names}
    return {
        seed: [ours - _printed(table(name), *cell) for name in names for cell, ours in found[name][seed].items()]
        for seed in sorted(set.intersection(*(set(by_seed) for by_seed in found.values())))
    }


def misfit(
    evidence: Evidence, scale: str, scheme: str, alpha: str, names: Sequence[str], own: bool = False
) -> dict[int, float]:
    """Root mean square difference to the print over the cells of the named tables, in points, by seed."""
    found = differences(evidence, scale, scheme, alpha, names, own)
    return {seed: fmean(d**2 for d in each) ** 0.5 for seed, each in found.items()}


def _units_of(row: str) -> list[str]:
    """Units that a candidate `scheme/alpha` is measured by."""
    scheme, _, alpha = row.partition("/")
    methods = [*TRUNCATED, *(f"{alpha}-{method}" for method in FROM_FLOAT)]
    return [
        unit for name in PROBLEMS for unit in (f"{name}-{FLOAT}", *(f"{name}-{scheme}-{method}" for method in methods))
    ]


def _cell(evidence: Evidence, scale: str, row: str, column: str) -> dict[int, float]:
    """The value of a contrast's cell `scheme/alpha@misfit`: over both tables."""
    scheme, _, alpha = row.partition("/")
    return misfit(evidence, scale, scheme, alpha, tuple(PROBLEMS))


def _ranking(name: str, evidence: Evidence, scale: str) -> str:
    """Candidates from the best fit to the worst, and the cells of the best beside the print."""
    tables = tuple(PROBLEMS)
    found = {(s, a): misfit(evidence, scale, s, a, tables) for s in SCHEMES for a in ALPHAS}
    found = {candidate: by_seed for candidate, by_seed in found.items() if by_seed}
    order = sorted(found, key=lambda candidate: fmean(found[candidate].values()))
    header = (
        "weights", "clip levels of DQ (32 bit)", "misfit", "n", "behind the best", *tables, f"cells within {NEAR:g}",
        "misfit, 8-bit rows by their own",
    )  # fmt: skip
    lines = []
    for scheme, alpha in order:
        each = differences(evidence, scale, scheme, alpha, tables).values()
        near = [sum(abs(d) <= NEAR for d in cells) for cells in each]
        lines.append(
            (
                SCHEMES[scheme],
                ALPHA_WORDS[alpha],
                mean_text(found[scheme, alpha].values()),
                str(len(found[scheme, alpha])),
                "" if (scheme, alpha) == order[0] else _behind(found[scheme, alpha], found[order[0]]),
                *(mean_text(misfit(evidence, scale, scheme, alpha, (name,)).values()) for name in tables),
                mean_text(near),
                mean_text(misfit(evidence, scale, scheme, alpha, tables, own=True).values()),
            )
        )
    parts = [f"## Ranking: {name}\n", markdown_table(header, lines, "ll" + "r" * 7)]
    if order:
        parts += [f"Best fit, {SCHEMES[order[0][0]]}, cell by cell:\n", _cells(evidence, scale, *order[0])]
        parts += ["Accuracies at full strength, by seed, in percent:\n", _full(evidence, scale)]
    for table_name in tables:
        records = [record for record in evidence.at(scale) if record.unit.startswith(f"{table_name}-")]
        if not records:
            continue
        seeds = len({record.seed for record in records})
        words = f"{REDUCED[scale]}; {evidence.study(scale)}; {seeds} seed{'s' * (seeds > 1)}"
        chosen = settings_text(records, left_out((*PROBLEMS[table_name].settings, *START, *STRUCTURE)))
        parts.append(f"`{scale}`, {table_name}: {words}; {chosen}.\n")
    return "\n".join(parts)


def _behind(candidate: Mapping[int, float], best: Mapping[int, float]) -> str:
    """By how much the candidate's misfit is larger, paired by seed; a tie where the 95 % interval reaches 0."""
    if not candidate.keys() & best.keys():
        return "–"
    found = paired_difference(candidate, best)
    return found.text("+.1f") + ", a tie" * (not found.excludes_zero)


def _cells(evidence: Evidence, scale: str, scheme: str, alpha: str) -> str:
    header = ("table", "method", "", *(f"{bits} bit" for bits in BITS))
    lines = []
    for name in PROBLEMS:
        by_seed = relative(evidence, scale, name, scheme, alpha)
        for method in (*FROM_FLOAT, *TRUNCATED):
            print_, ours = [], []
            for bits in BITS:
                print_.append(f"{_printed(table(name), method, bits):.1f}")
                ours.append(mean_text([cells[method, bits] for cells in by_seed.values()]))
            lines.append((name, METHODS[method].label, "published", *print_))
            lines.append(("", "", "ours", *ours))
    return markdown_table(header, lines, "lll" + "r" * len(BITS))


def _full(evidence: Evidence, scale: str) -> str:
    """The FP32 starts and the individual 8-bit networks: weak ones widen the spread of what is cut from them."""
    header = ("network", *PROBLEMS)
    starts = [evidence.values(scale, f"{name}-{FLOAT}", str(FLOAT_BITS)) for name in PROBLEMS]
    tops = [
        (f"8 bit, {words}", [_top(evidence, scale, n, scheme) for n in PROBLEMS]) for scheme, words in SCHEMES.items()
    ]
    lines = [
        (words, *(", ".join(f"{a:.1f}" for a in each.values()) for each in found))
        for words, found in (("FP32", starts), *tops)
    ]
    return markdown_table(header, lines, "lrr")


ALPHA_WORDS = {"percentile": "99.9th percentile", "maximum": "maximum", "start": "PACT's start"}
CAPTION = """\
DQ (32 bit) and DQ (8 bit), with and without BN calibration, at 8, 6, 4 and 2 bits: what is left, above chance and in
percent, of the accuracy at full strength (ours: of the FP32 start; in print: of the individual 8-bit network). The
misfit is the root mean square difference of the two over the 32 cells of both tables, in points; smaller is better. A
few cells where networks collapse in print weigh most in it. The last column divides the DQ (8 bit) rows by the scheme's
individual 8-bit network, as in print: so what its training gains or costs is no misfit, and two cells are met by
definition. Behind the best: by seed, each
with a 95 % interval of its own; the best was picked from the same runs. Exploratory: the print names no scheme.
"""

TARGET = Identification()
