"""Figure 4 as a page: the released runs by themselves, ours beside them, effects, power, the sweep over delta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from repro.evidence.claims import Row, rollup
from repro.evidence.files import write_text
from repro.evidence.intervals import Interval, mean_sd, t_interval
from repro.evidence.patterns import BINDING, patterns
from repro.evidence.power import power, seeds_needed
from repro.evidence.records import Evidence
from repro.evidence.render import csv_text, fingerprint, markdown_table, number, save_figure, settings_text, write_csv
from repro.figure4 import EWGS, MAIN, SCALES, picture, trained
from repro.figure4.cells import Cell, printed, widths
from repro.figure4.claims import OUTCOMES, TARGET, TOP1, Ours, designs, print_study
from repro.figure4.study import FEWEST_FLIPPED, Study, rank_agreement

POINTS = ("source", "network", "bits", "weights", "activations", "delta", "run", *OUTCOMES)
"""Columns of `figure4_points.csv`: every run, the released and ours."""
WANTED = 0.8


def render(title: str, evidence: Evidence, judged: Sequence[Row], folder: Path) -> list[Path]:
    """Write every file of the target."""
    points = csv_text(POINTS, list(points_of(evidence)))
    body = text(title, {"": evidence}, judged)
    paths = [write_csv(judged, folder / f"{TARGET}.csv"), write_text(folder / f"{TARGET}_points.csv", points)]
    pictures: list[Path] = []
    for name, drawing in picture.PICTURES.items():
        drawn = drawing(evidence)
        if drawn is not None:
            made_from = fingerprint(renderer=picture.DRAWING, published=(TARGET, f"{TARGET}_runs"), texts=[points])
            pictures += save_figure(drawn, folder / name, made_from)
            body += f"\n![{picture.ALT[name]}]({name}.png)\n"
    return [*paths, write_text(folder / f"{TARGET}.md", body), *pictures]


def points_of(evidence: Evidence) -> Iterator[tuple[object, ...]]:
    """Every run as a line, in the order of `POINTS`."""
    for cell, found in printed().items():
        for run, value in found.values.items():
            yield (PRINTED, "lite0", *cell, "", run, value, *[None] * (len(OUTCOMES) - 1))
    for scale in evidence.scales:
        for network in trained(SCALES[scale]):
            arms: list[tuple[Cell, float | None]] = [
                (cell, None) for bits in network.bits(SCALES[scale]) for cell in printed() if cell.bits == bits
            ]
            arms += [(cell, None) for cell in Ours(evidence, scale, network).others()]
            for cell, delta in [
                *arms,
                *((Cell(MAIN, *EWGS), d) for d in deltas(evidence, scale, network.name)),
            ]:
                for seed, record in evidence.seeds(scale, cell.unit(network.name, delta)).items():
                    values = [record.values.get(outcome) for outcome in OUTCOMES]
                    yield (scale, network.name, *cell, record.settings.get("delta", ""), seed, *values)


PRINTED = "published"


def deltas(evidence: Evidence, scale: str, network: str) -> list[float]:
    """Deltas of the sweep that have records, smallest first."""
    found = {
        float(record.settings["delta"])  # type: ignore[arg-type]
        for record in evidence.records
        if record.scale == scale and "_delta" in record.unit and record.unit.startswith(f"{network}_")
    }
    return sorted(found)


# --- text ------------------------------------------------------------------------------------------------------------

CAPTION = f"""\
A pair is written weights/activations: the gradient scaler of each. From one FP32 network per seed, every pair trains
the same quantized network on the same images in the same order; form `normalised`. Top-1 accuracy in percent.

*Published* are the authors' released runs: EfficientNet-Lite0 on ImageNet, 20 runs a pair. *Ours*, below `paper` scale,
are on CIFAR-10: accuracies are not comparable, differences between pairs are. `repro/figure4` lists the deviations.

Differences to STE on both sides have intervals that cover together at 95 %, for all pairs of one width at once:
Dunnett's for the published runs, sign flips of whole seed rows for ours (Dunnett's below {FEWEST_FLIPPED} seeds). A
pair *separates* where its interval excludes 0; *told from winner*: multiple comparisons with the best. A claim that
pairs do not differ says that differences are inside its margin: one may be so and yet exclude 0. No verdict is given on
ours before all planned seeds are recorded.
"""


def text(title: str, sources: Mapping[str, Evidence], judged: Sequence[Row]) -> str:
    """The page: claims, the print, then each source and scale by network."""
    first = next(iter(sources.values()))
    parts = [f"# Figure 4: {title.lower()}\n", CAPTION, _claims(first, judged), _published()]
    for name, evidence in sources.items():
        for scale in evidence.scales:
            for network in trained(SCALES[scale]):
                parts += _network(f"{name} {scale}".strip(), Ours(evidence, scale, network))
        parts += _power(name, evidence)
    if not any(evidence.scales for evidence in sources.values()):
        parts.append("None of our runs is recorded yet.\n")
    return "\n".join(parts)


def _claims(evidence: Evidence, judged: Sequence[Row]) -> str:
    statements = {pattern.name: pattern.statement for pattern in patterns(evidence.preregistered)}
    header = ("claim", "runs", "binding contrast", "value", "95 % interval", "margin", "n", "verdict", "state")
    lines = [
        (
            statements[row.claim],
            "published" if row.scale == "print" else f"{row.scale} {row.row}",
            row.reason.removeprefix(BINDING) if row.state == "ok" else "",
            number(row.ours, 3),
            _span(row.low, row.high),
            number(row.margin),
            number(row.n),
            row.verdict,
            row.state if row.state == "ok" else f"{row.state} ({row.reason})",
        )
        for row in judged
        if row.claim in statements
    ]
    return (
        f"## Claims, fixed before our runs\n\n{markdown_table(header, lines, 'lllrrrrll')}\n"
        f"All rows of `{TARGET}.csv`: {rollup(judged)}.\n"
    )


def _published() -> str:
    lines = []
    for bits in widths():
        study = print_study(bits)
        for cell in study.cells:
            difference, behind = study.differences.get(cell), study.behind.get(cell)
            told = "winner" if behind is None else "yes" if behind.high is not None and behind.high < 0 else "no"
            lines.append(
                (
                    str(bits),
                    cell.pair,
                    str(printed()[cell].mean),
                    str(printed()[cell].sd),
                    *_difference(difference),
                    told,
                )
            )
    header = ("bits", "pair", "top-1", "sd", "minus STE", "interval", "separates", "told from winner")
    correlations = ", ".join(f"{number(print_study(b).mean_correlation, 2)} at {b} bits" for b in widths())
    return "\n".join(
        (
            "## Published runs\n",
            markdown_table(header, lines, "rlrrrrll"),
            "Runs of one number share their seed. Mean correlation between pairs over runs: "
            f"{correlations}. At 0 pairing by run buys nothing.\n",
            _factorial("published", {b: print_study(b) for b in widths()}),
        )
    )


def _difference(interval: Interval | None) -> tuple[str, str, str]:
    if interval is None:
        return "", "", ""
    if interval.low is None or interval.high is None:
        return f"{interval.estimate:+.2f}", "", ""
    separates = "yes" if not interval.low <= 0 <= interval.high else "no"
    return f"{interval.estimate:+.2f}", _span(interval.low, interval.high), separates


def _span(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    digits = 2 if max(abs(low), abs(high)) >= 0.1 else 4
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


def _factorial(name: str, studies: Mapping[int, Study]) -> str:
    lines = [
        (str(bits), effect.replace("_", " "), *_difference(interval))
        for bits, study in studies.items()
        for effect, interval in study.effects.items()
    ]
    if not lines:
        return ""
    header = ("bits", "effect", "points", "interval, all together", "excludes 0")
    return (
        f"The 3 x 3 factorial of ste, ewgs, invtanh, {name}: a scaler in place of STE for weights (mean over the three "
        "of activations), for activations (likewise), and what both together add to the sum.\n\n"
        f"{markdown_table(header, lines, 'rlrrl')}"
    )


def _network(name: str, ours: Ours) -> list[str]:
    lines = []
    for bits in ours.bits:
        study, theirs = ours.study(bits), print_study(bits)
        for cell in study.cells:
            after = _paired(ours, cell, "top1_bn")
            paired = study.pairing(cell) if cell != study.control else None
            lines.append(
                (
                    str(bits),
                    cell.pair,
                    str(len(study.cells[cell])),
                    _mean(ours, cell, TOP1, 2),
                    *_difference(study.differences.get(cell))[:2],
                    f"{theirs.differences[cell].estimate:+.2f}" if cell in theirs.differences else "",
                    after,
                    _mean(ours, cell, "weight_error", 4),
                    _mean(ours, cell, "oscillation", 2),
                    number(paired.correlation if paired else None, 2),
                    number(paired.variance_ratio if paired else None, 2),
                )
            )
    if not lines:
        return []
    header = (
        "bits", "pair", "n", "top-1", "minus STE", "interval", "published", "after BN", "mean abs e", "oscillating %",
        "r with STE", "Var ratio",
    )  # fmt: skip
    parts = [f"## {ours.network.label}: {name}\n", markdown_table(header, lines, "rl" + "r" * 10), NOTES]
    parts.append(_factorial("ours", {bits: ours.study(bits) for bits in ours.bits}))
    parts += [_order(ours), _others(ours), _sweep(ours), _settings(ours)]
    return [part for part in parts if part]


NOTES = """\
*published*: the printed difference. *after BN*: ours minus STE after batch norm's statistics are re-estimated, which
undoes what oscillating weights do to them. *mean abs e*: mean rounding error of the weights in steps, after training.
*oscillating*: weights whose frequency of oscillation is above .005 (Nagel et al. 2022). *r with STE*: correlation over
seeds; *Var ratio*: Var(difference) / (sum of both variances), 1 where pairing by seed does nothing.
"""


def _paired(ours: Ours, cell: Cell, outcome: str) -> str:
    values, control = ours.values(cell, outcome), ours.values(cell.control, outcome)
    both = sorted(values.keys() & control.keys())
    if not both or cell == cell.control:
        return ""
    return f"{t_interval([values[seed] - control[seed] for seed in both]).estimate:+.2f}"


def _mean(ours: Ours, cell: Cell, outcome: str, digits: int) -> str:
    values = list(ours.values(cell, outcome).values())
    if not values:
        return ""
    mean, sd = mean_sd(values)
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def _order(ours: Ours) -> str:
    words = []
    for bits in ours.bits:
        study = ours.study(bits)
        rho = rank_agreement(study.means(), print_study(bits).means())
        if rho is not None:
            words.append(f"at {bits} bits {rho.estimate:+.2f} ({_span(rho.low, rho.high)}, {rho.n} pairs)")
    correlations = [
        f"{number(r, 2)} at {bits} bits" for bits in ours.bits if (r := ours.study(bits).mean_correlation) is not None
    ]
    found = f"Rank correlation with the published order: {'; '.join(words)}.\n" if words else ""
    return found + (f"Mean correlation between pairs over seeds: {', '.join(correlations)}.\n" if correlations else "")


def _others(ours: Ours) -> str:
    """Pairs that were not released, each minus STE with an interval of its own: they belong to no family."""
    lines = []
    for cell in ours.others():
        values, control = ours.values(cell), ours.values(cell.control)
        both = sorted(values.keys() & control.keys())
        difference = _with_interval(t_interval([values[s] - control[s] for s in both]), 2) if both else ""
        lines.append((str(cell.bits), cell.pair, str(len(values)), _mean(ours, cell, TOP1, 2), difference))
    if not lines:
        return ""
    header = ("bits", "pair", "n", "top-1", "minus STE")
    return f"Pairs that were not released, with a 95 % t interval each:\n\n{markdown_table(header, lines, 'rlrrr')}"


def _sweep(ours: Ours) -> str:
    found = deltas(ours.evidence, ours.scale, ours.network.name)
    cell = Cell(MAIN, *EWGS)
    if not found:
        return ""
    own = next(
        (r.settings["delta"] for r in ours.evidence.seeds(ours.scale, cell.unit(ours.network.name)).values()), None
    )
    arms = sorted(
        [*((d, d) for d in found), *([(float(own), None)] if own is not None else [])], key=lambda arm: arm[0]
    )
    control = {outcome: ours.values(cell.control, outcome) for outcome in OUTCOMES}
    lines = []
    for delta, unit_delta in arms:
        cells = [f"{delta:g}"]
        for outcome in OUTCOMES:
            values = ours.values(cell, outcome, unit_delta)
            both = sorted(values.keys() & control[outcome].keys())
            digits = 4 if outcome == "weight_error" else 2
            difference = t_interval([values[s] - control[outcome][s] for s in both]) if both else None
            cells.append("" if difference is None else _with_interval(difference, digits))
        lines.append((*cells, str(len(ours.values(cell, TOP1, unit_delta)))))
    header = ("delta", "top-1", "top-1 after BN", "mean abs e", "oscillating %", "n")
    return (
        f"{cell.pair} at {cell.bits} bits over delta, minus STE, with a 95 % t interval each:\n\n"
        f"{markdown_table(header, lines, 'rrrrrr')}"
    )


def _with_interval(interval: Interval, digits: int) -> str:
    span = (
        ""
        if interval.low is None or interval.high is None
        else f" ({interval.low:+.{digits}f} to {interval.high:+.{digits}f})"
    )
    return f"{interval.estimate:+.{digits}f}{span}"


def _settings(ours: Ours) -> str:
    """What the records of this network were made with."""
    own = [record for record in ours.evidence.at(ours.scale) if record.unit.startswith(f"{ours.network.name}_")]
    return f"`{ours.scale}`: {settings_text(own)}.\n"


def _power(name: str, evidence: Evidence) -> list[str]:
    """How many seeds the published effect would take at our spread, and what ours can show."""
    lines = []
    for design in designs(evidence):
        alone = seeds_needed(design.effect, design.sd, WANTED)
        together = seeds_needed(design.effect, design.sd, WANTED, comparisons=design.comparisons)
        now = power(design.n, design.effect, design.sd) if design.n > 1 else None
        lines.append(
            (
                design.scale,
                design.name,
                number(design.sd, 3),
                str(design.n),
                f"{100 * now:.0f} %" if now is not None else "",
                str(alone),
                str(together),
            )
        )
    if not lines:
        return []
    effect = designs(evidence)[0].effect
    header = (
        "scale",
        "runs",
        "sd of a difference",
        "n",
        "power now",
        "seeds, one pair",
        f"seeds, all {MAIN}-bit pairs",
    )
    return [
        f"## Power{': ' + name if name else ''}\n",
        f"Seeds that would show the largest published difference to STE, {effect:+.2f}, with {100 * WANTED:.0f} % "
        "power at our spread, planned as one comparison or with Bonferroni's correction for all pairs "
        f"(`python -m repro plan {TARGET}` for another effect):\n",
        markdown_table(header, lines, "llrrrrr"),
    ]
