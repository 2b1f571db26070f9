"""How a table is shown: as printed, with ours beneath each row, and what was found in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from repro.adaptive.claims import BOLD, RANK, Arithmetic, Measured
from repro.adaptive.methods import FLOAT, FLOAT_BITS, METHODS, Method, methods
from repro.evidence.claims import SMOKE, Row
from repro.evidence.collection import Evidence
from repro.evidence.intervals import Interval
from repro.evidence.patterns import pattern_table
from repro.evidence.render import markdown_table, mean_text, settings_text
from repro.published import Printed, PublishedTable, read

REDUCED = {
    "smoke": "a few steps that prove the pipeline",
    "cpu": "reduced network and epochs, real data",
    "gpu": "the published network and data set, fewer epochs",
    "paper": "the published set-up",
}
TOGETHER = """\
A pattern `holds` if every contrast of it does, each at 95 %; the binding one is shown. It `fails` if one does: of k
contrasts one fails by chance with a probability of up to 2.5 k %."""


def page(
    title: str,
    printed: PublishedTable,
    sources: Mapping[str, Evidence],
    rows: Sequence[Row],
    unsaid: Mapping[str, object],
    deviations: str = "",
    picture: str = "",
) -> str:
    """The Markdown page of a table: print and each source of runs row by row, then every claim.

    Args:
        printed: the published table.
        sources: evidence by where it lies; the name heads its lines.
        rows: all claims, judged on the evidence to be reported.
        unsaid: what settings are where records do not name them.
        deviations: Markdown that says what is not as printed.
        picture: file that shows the same.
    """
    measured = [
        (f"{name} {scale}".strip(), Measured(printed, evidence, scale))
        for name, evidence in sources.items()
        for scale in evidence.scales
    ]
    parts = [
        f"# {title}\n\n",
        f"{printed.source}, read from: {printed.read_from}. Top-1 accuracy in percent; "
        "ours as mean over seeds with the standard deviation where there are several, Delta_B with its 95 % "
        "interval.\n\n",
        _table(printed, measured),
        *([f"\n![Accuracy over bit-width, published and ours]({picture})\n"] if picture else []),
        *_scales(measured, unsaid),
        *_order(measured),
        *([f"\n## What is not as printed\n\n{deviations}\n"] if deviations else []),
        "\n## Does the print follow from itself?\n\n",
        _arithmetic(printed),
        *_third_party(printed),
        *_patterns(rows, printed, next(iter(sources.values()))),
    ]
    return "".join(parts)


def _table(printed: PublishedTable, measured: Sequence[tuple[str, Measured]]) -> str:
    header = ["method", "", *(f"{bits} bit" for bits in printed.bits), "Delta_B"]
    lines = []
    for method in printed.methods:
        cells = [_bold(printed, method, f"top1_{b}bit", printed.cell(method, b)) for b in printed.bits]
        lines.append(
            [METHODS[method].label, "published", *cells, _bold(printed, method, "delta_b", printed.delta_b(method))]
        )
        lines += [["", _source(name, runs, method), *_cells(printed, runs, METHODS[method])] for name, runs in measured]
    for own in (method for method in methods().values() if method.origin):
        recorded = [(name, runs) for name, runs in measured if any(runs.accuracy(own, b) for b in printed.bits)]
        titles = [own.title, *[""] * len(recorded)]
        lines += [
            [title, _with_seeds(name, runs, own), *_cells(printed, runs, own)]
            for title, (name, runs) in zip(titles, recorded, strict=False)
        ]
    return markdown_table(header, lines, "ll" + "r" * (len(printed.bits) + 1))


def _bold(printed: PublishedTable, method: str, column: str, cell: Printed) -> str:
    return f"**{cell}**" if (method, column) in printed.bold else str(cell)


def _source(name: str, runs: Measured, method: str) -> str:
    """Whose runs these are, and the state of what is not `ok`."""
    state, reason = runs.state(method)
    return name if state == "ok" else f"{name}: {state} ({reason})"


def _with_seeds(name: str, runs: Measured, own: Method) -> str:
    """Whose runs of a row these are that is not the paper's, and how many seeds it has where others have more."""
    unit, columns = own.units()[0]
    seeds = len(runs.evidence.values(runs.scale, unit, str(columns[0])))
    most = len(runs.evidence.seeds(runs.scale, FLOAT))
    return name if seeds >= most else f"{name}, {seeds} of {most} seeds"


def _cells(printed: PublishedTable, runs: Measured, method: Method) -> list[str]:
    """Accuracy at each bit-width and Delta_B, as far as they are recorded."""
    seeds = [list(runs.accuracy(method, bits).values()) for bits in printed.bits]
    delta = runs.delta_b(method)
    cells = [mean_text(values) for values in seeds]
    return [*cells, _interval(delta) if delta else "–"]


def _interval(delta: Interval) -> str:
    """Delta_B with its 95 % interval, as far as it has one."""
    wide = delta.low is not None and delta.high is not None and delta.low < delta.high
    span = f" ({delta.low:.1f} to {delta.high:.1f})" if wide else ""
    return f"{delta.estimate:.1f}{span}"


def _scales(measured: Sequence[tuple[str, Measured]], unsaid: Mapping[str, object]) -> list[str]:
    """A line per source: what its scale means, its seeds and its settings."""
    lines = []
    for name, runs in measured:
        records, study = runs.records, runs.evidence.study(runs.scale)
        seeds = len({record.seed for record in records})
        starts = mean_text(runs.evidence.values(runs.scale, FLOAT, str(FLOAT_BITS)).values())
        words = f"{REDUCED[runs.scale]}; {study}; {seeds} seed{'s' * (seeds > 1)}, FP32 starts {starts}"
        lines.append(f"\n`{name}`: {words}; {settings_text(records, unsaid)}.\n")
    if lines and not any(runs.scale in ("gpu", "paper") for _, runs in measured):
        lines.append("\nAt these scales a difference to the print is shown without a verdict.\n")
    if not lines:
        lines.append("\nNothing is recorded yet.\n")
    return lines


def _order(measured: Sequence[tuple[str, Measured]]) -> list[str]:
    """A line per source with four methods or more: whether Delta_B puts them in the order of the print."""
    lines = []
    for name, runs in measured:
        if rho := runs.agreement:
            words = f"rank correlation of Delta_B with the print {rho.text('.2f')} over {rho.n} methods"
            lines.append(f"\n`{name}`: {words}; the interval is over methods, not over seeds.\n")
    return lines


def _arithmetic(printed: PublishedTable) -> str:
    """Each printed Delta_B and rank against what its row allows, whether the undisputed ones go together, and bold."""
    found = Arithmetic(printed)
    ranks = {row.row: row for row in found.rows() if row.claim == RANK}
    header = [
        "method",
        "printed Delta_B",
        "derivable interval",
        "nearest derivable",
        "gap",
        "verdict",
        "rank",
        "allowed",
    ]
    lines = []
    for method in found.compared:
        low, high = (float(bound) for bound in found.bounds[method])
        judged, cell = found.judged[method], printed.delta_b(method)
        disputed = judged.verdict == "disputed"
        nearest = f"{judged.ours:.{cell.decimals}f}" if disputed else ""
        gap = f"{judged.theta:+.{cell.decimals}f}" if disputed else ""
        rank = ranks[method]
        allowed = f"{rank.low:g} to {rank.high:g}" + ", disputed" * (rank.verdict == "disputed")
        follows = (METHODS[method].label, str(cell), f"{low:.3f} to {high:.3f}", nearest, gap, judged.verdict)
        lines.append((*follows, rank.published, allowed))
    able = "can" if found.together.possible else "cannot"
    return markdown_table(header, lines, "lrrrrlrr") + (
        f"\nDisputed means: not derivable by rounding from its row in the {printed.read_from}; the gap is "
        f"printed minus nearest derivable. The {len(found.undisputed)} undisputed rows {able} hold together over "
        f"one set of Individual accuracies (linear program, slack {found.together.slack:+.4f} points). Rank: by "
        f"printed Delta_B, beside those that the accuracies allow.\n{_best(found)}"
    )


def _best(found: Arithmetic) -> str:
    """Whether what is printed in bold is the best of its column."""
    bold = [row for row in found.rows() if row.claim == BOLD]
    words = [
        f"{METHODS[row.row].label}'s {row.published}" + (f": disputed, {row.reason}" if row.reason else ", the best")
        for row in bold
    ]
    return f"\nPrinted bold in the column of Delta_B: {'; '.join(words)}.\n" if words else ""


def _third_party(printed: PublishedTable) -> list[str]:
    """What other papers report for the same network and data, beside this table's cells."""
    others = [
        row for row in read("third_party") if (row["network"], row["dataset"]) == (printed.network, printed.dataset)
    ]
    if not others:
        return []
    header = ["method", "bits", "this table", "third party", "difference", "their setting", "source"]
    lines = []
    for row in others:
        method, bits, theirs = str(row["method"]), int(str(row["bits_w"])), row["top1"]
        assert isinstance(theirs, Printed)
        here = printed.cell(method, bits) if method in printed.methods and bits in printed.bits else None
        difference = f"{float(theirs.value - here.value):+.2f}" if here else ""
        label = METHODS[method].label if method in METHODS else method.replace("_", " ")
        lines.append(
            [label, str(bits), str(here or ""), str(theirs), difference, str(row["setting"]), str(row["source"])]
        )
    return [
        "\n## What third parties report\n\n",
        markdown_table(header, lines, "lrrrrll"),
        "\nThe same methods, network and data under other recipes and, where it is said, for other sets of "
        "bit-widths: where these differences exceed those between methods, such choices decide more than the method.\n",
    ]


def _patterns(rows: Sequence[Row], printed: PublishedTable, evidence: Evidence) -> list[str]:
    """Each pattern on the print and at every scale."""
    judged = [row for row in rows if row.kind == "pattern" and row.scale != SMOKE]
    if not judged:
        return []
    together = sorted(judged, key=lambda row: [r.claim for r in judged].index(row.claim))

    def cell(scale: str, method: str, column: str) -> Mapping[int, float]:
        return Measured(printed, evidence, scale).cell(method, column)

    return ["\n## Patterns\n\n", f"{TOGETHER}\n\n", pattern_table(together, evidence.preregistered, cell)]
