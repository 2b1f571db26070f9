"""Figure 4 as a page: the released runs by themselves, ours beside them, effects, power, the sweep over delta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from repro import figure4
from repro.evidence.claims import Row, rollup
from repro.evidence.collection import Evidence
from repro.evidence.files import write_text
from repro.evidence.intervals import FEWEST_FLIPPED, Interval, paired_difference, rank_agreement
from repro.evidence.patterns import BINDING, patterns
from repro.evidence.power import power, seeds_needed
from repro.evidence.render import (
    csv_text,
    fingerprint,
    markdown_table,
    mean_text,
    number,
    save_figure,
    settings_text,
    write_csv,
)
from repro.figure4 import EWGS, MAIN, SCALES, picture, trained
from repro.figure4.cells import Cell, printed, widths
from repro.figure4.claims import OUTCOMES, TARGET, TOP1, Ours, designs, print_study
from repro.figure4.study import Study

POINTS = ("source", "network", "bits", "weights", "activations", "delta", "run", *OUTCOMES)
"""Columns of `figure4_points.csv`: every run, the released and ours."""
WANTED = 0.8


def render(title: str, evidence: Evidence, judged: Sequence[Row], folder: Path) -> list[Path]:
    """Write every file of the target."""
    points = csv_text(POINTS, list(points_of(evidence)))
    paths = [write_csv(judged, folder / f"{TARGET}.csv"), write_text(folder / f"{TARGET}_points.csv", points)]
    pictures: list[Path] = []
    shown = []
    for name, drawing in picture.PICTURES.items():
        drawn = drawing(evidence)
        if drawn is not None:
            made_from = fingerprint(renderer=picture.DRAWING, published=(TARGET, f"{TARGET}_runs"), texts=[points])
            pictures += save_figure(drawn, folder / name, made_from)
            shown.append(f"![{picture.ALT[name]}]({name}.png)\n")
    page = write_text(folder / f"{TARGET}.md", text(title, {"": evidence}, judged, shown))
    return [*paths, page, *pictures]


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
            ours = Ours(evidence, scale, network)
            arms += [(cell, None) for cell in ours.others()]
            arms += [(Cell(MAIN, *EWGS), delta) for delta in ours.swept().values() if delta is not None]
            for cell, delta in arms:
                for seed, record in evidence.seeds(scale, cell.unit(network.name, delta)).items():
                    values = [record.values.get(outcome) for outcome in OUTCOMES]
                    yield (scale, network.name, *cell, record.settings.get("delta", ""), seed, *values)


PRINTED = "published"


# --- text ------------------------------------------------------------------------------------------------------------

CAPTION = f"""\
A pair is written weights/activations: the gradient scaler of each. From one FP32 network per seed, every pair trains
the same quantized network on the same images in the same order. Top-1 accuracy in percent.

*Published* are the authors' released runs: EfficientNet-Lite0 on ImageNet, 20 runs a pair. *Ours*, below `paper` scale,
are on CIFAR-10: accuracies are not comparable, differences between pairs are.

Differences to STE on both sides have intervals that cover together at 95 %, for all pairs of one width at once:
Dunnett's for the published runs, sign flips of whole seed rows for ours (below {FEWEST_FLIPPED} seeds Dunnett's, and
Bonferroni's for effects). A pair *separates* where its interval excludes 0; *told from winner*: multiple comparisons
with the best. A claim that pairs do not differ says that differences are inside its margin: one may be so and yet
exclude 0. A verdict on ours waits for all planned seeds, and is given on directions that the print claims: where its
own interval excludes 0.
"""


def text(title: str, sources: Mapping[str, Evidence], judged: Sequence[Row], pictures: Sequence[str] = ()) -> str:
    """The page: claims, pictures, the print, then each source and scale by network."""
    first = next(iter(sources.values()))
    _, _, deviations = (figure4.__doc__ or "").partition("\n\n")
    parts = [f"# Figure 4: {title.lower()}\n", CAPTION, _claims(first, judged), *pictures, _published()]
    for name, evidence in sources.items():
        for scale in evidence.scales:
            for network in trained(SCALES[scale]):
                parts += _network(f"{name} {scale}".strip(), Ours(evidence, scale, network))
        parts += _power(name, evidence)
    if not any(evidence.scales for evidence in sources.values()):
        parts.append("None of our runs is recorded yet.\n")
    parts.append(f"## What is not as printed\n\n{deviations}")
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
    span = _span(interval.low, interval.high)
    return f"{interval.estimate:+.2f}", span, "" if not span else "yes" if interval.excludes_zero else "no"


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
            paired = study.pairing(cell) if cell != study.control else None
            lines.append(
                (
                    str(bits),
                    cell.pair,
                    str(len(study.cells[cell])),
                    _mean(ours, cell, TOP1, 2),
                    *_difference(study.differences.get(cell))[:2],
                    f"{theirs.differences[cell].estimate:+.2f}" if cell in theirs.differences else "",
                    _mean(ours, cell, "weight_error", 4),
                    _mean(ours, cell, "oscillation", 2),
                    number(paired.correlation if paired else None, 2),
                    number(paired.variance_ratio if paired else None, 2),
                )
            )
    if not lines:
        return []
    header = (
        "bits", "pair", "n", "top-1", "minus STE", "interval", "published", "mean abs e", "oscillating %",
        "r with STE", "Var ratio",
    )  # fmt: skip
    parts = [f"## {ours.network.label}: {name}\n", markdown_table(header, lines, "rl" + "r" * 9), NOTES]
    parts.append(_mechanism(ours))
    parts.append(_factorial("ours", {bits: ours.study(bits) for bits in ours.bits}))
    parts += [_order(ours), _others(ours), _sweep(ours), _start(ours), _settings(ours)]
    return [part for part in parts if part]


NOTES = """\
*published*: the printed difference. *mean abs e*: mean rounding error of the weights in steps, after training.
*oscillating*: weights whose frequency of oscillation is above .005 (Nagel et al. 2022). *r with STE*: correlation over
seeds; *Var ratio*: Var(difference) / (sum of both variances), 1 where pairing by seed does nothing.
"""


def _mechanism(ours: Ours) -> str:
    """The other outcomes, minus STE: whether scalers do to the weights what they should, and batch norm's part."""
    lines = []
    for bits in ours.bits:
        by_outcome = {outcome: ours.study(bits, outcome).differences for outcome in OUTCOMES[1:]}
        for cell in ours.cells(bits):
            found = [differences.get(cell) for differences in by_outcome.values()]
            if any(found):
                shown = [
                    _with_interval(interval, outcome) if interval else ""
                    for outcome, interval in zip(by_outcome, found, strict=True)
                ]
                lines.append((str(bits), cell.pair, *shown))
    if not lines:
        return ""
    header = ("bits", "pair", "top-1 after BN", "mean abs e", "oscillating %")
    return (
        "The other outcomes, minus STE, with intervals that cover together in each column at each width. *top-1 after "
        "BN*: after batch norm's statistics are re-estimated, which undoes what oscillating weights do to them.\n\n"
        f"{markdown_table(header, lines, 'rlrrr')}"
    )


def _mean(ours: Ours, cell: Cell, outcome: str, digits: int) -> str:
    return mean_text(ours.values(cell, outcome).values(), digits, empty="")


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
    lines = [
        (
            str(cell.bits),
            cell.pair,
            str(len(ours.values(cell))),
            _mean(ours, cell, TOP1, 2),
            _alone(ours.values(cell), ours.values(cell.control), TOP1),
        )
        for cell in ours.others()
    ]
    if not lines:
        return ""
    header = ("bits", "pair", "n", "top-1", "minus STE")
    return f"Pairs that were not released, with a 95 % t interval each:\n\n{markdown_table(header, lines, 'rlrrr')}"


def _sweep(ours: Ours) -> str:
    """What delta does, each minus STE with an interval of its own."""
    cell, lines = Cell(MAIN, *EWGS), []
    for delta, asked in ours.swept().items():
        values = {outcome: ours.values(cell, outcome, asked) for outcome in OUTCOMES}
        cells = [_alone(found, ours.values(cell.control, outcome), outcome) for outcome, found in values.items()]
        lines.append((f"{delta:g}", *cells, str(len(values[TOP1]))))
    if not lines:
        return ""
    header = ("delta", "top-1", "top-1 after BN", "mean abs e", "oscillating %", "n")
    return (
        f"{cell.pair} at {cell.bits} bits over delta, minus STE, with a 95 % t interval each:\n\n"
        f"{markdown_table(header, lines, 'rrrrrr')}"
    )


def _alone(values: Mapping[int, float], control: Mapping[int, float], outcome: str) -> str:
    """A difference over the seeds that both have, with its own interval."""
    return _with_interval(paired_difference(values, control), outcome) if values.keys() & control.keys() else ""


def _with_interval(interval: Interval, outcome: str) -> str:
    return interval.text("+.4f" if outcome == "weight_error" else "+.2f")


def _start(ours: Ours) -> str:
    """What all pairs start from, what chance is, and how long runs take."""
    starts = [record for record in ours.records if record.unit == ours.network.start]
    runs = [record for record in ours.records if record.unit != ours.network.start]
    if not starts or not runs:
        return ""
    seconds, start = (median(record.wall_seconds for record in found) for found in (runs, starts))
    return (
        f"FP32 starts: {mean_text([record.values[TOP1] for record in starts], 2)} % ({len(starts)}); chance is "
        f"{100 / int(starts[0].settings['classes'] or 1):g} %. A run takes {seconds:.0f} s, a start "
        f"{start:.0f} s (medians; {', '.join(sorted({record.cpu for record in ours.records}))}).\n"
    )


def _settings(ours: Ours) -> str:
    """What the records of this network were made with."""
    return f"`{ours.scale}`: {ours.evidence.study(ours.scale)}; {settings_text(ours.records)}.\n"


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
