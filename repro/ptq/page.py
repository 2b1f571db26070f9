"""The study as rows, tables and text: the seminar's two numbers, every quantized network, every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from repro.evidence.claims import Judged, Row, judge_number, judge_print
from repro.evidence.collection import Evidence
from repro.evidence.files import write_text
from repro.evidence.intervals import mean_sd
from repro.evidence.patterns import pattern_row, pattern_rows, pattern_table, patterns
from repro.evidence.render import (
    csv_text,
    fingerprint,
    markdown_table,
    mean_text,
    page_text,
    save_figure,
    settings_text,
    write_csv,
)
from repro.ptq import DRAWN, NETWORKS, WIDTHS, Cell, cells, float_unit, layer_ratios, picture
from repro.published import Printed, read

TARGET = "ptq"
ANCHORS = {"32": float_unit("efficientnet_lite0"), "8": Cell("efficientnet_lite0", 8, "channel", "max").unit}
"""Unit that stands beside each printed number, by its bits."""
COLUMNS = {
    "snr": "SNR of the output, dB",
    "agreement": "agreement, %",
    "knn": "neighbour's class, %",
    "top1": "top-1, %",
}
LAYERS = ("scale", "network", "bits", "weights", "calibrator", "layer", "snr_db", "sd", "seeds")
SCALES = {"smoke": "a few images that prove the pipeline", "cpu": "real images, but not those that the print is about"}


def printed() -> dict[str, dict[str, Any]]:
    """The seminar's rows by bits: 32 is the float network."""
    return {str(row["bits"]): row for row in read(TARGET)}


# Rows


def rows(evidence: Evidence) -> list[Row]:
    """The print against itself, the printed numbers beside ours, and the preregistered patterns."""
    return [
        *_print_rows(evidence),
        *(_anchor(evidence, scale, bits) for scale in (*evidence.judged_scales("cpu"), "paper") for bits in ANCHORS),
        *pattern_rows(evidence, evidence.values, "cpu"),
    ]


def _print_rows(evidence: Evidence) -> list[Row]:
    top1 = {("efficientnet_lite0", bits): cast(Printed, row["top1"]) for bits, row in printed().items()}
    judged = [
        (pattern, judge_print(pattern, top1))
        for pattern in patterns({"patterns": evidence.preregistered.get("print_patterns", ())})
    ]
    return [
        pattern_row(TARGET, pattern.name, found, "print", published=f"{found.theta:g}", read_from=_read_from())
        for pattern, found in judged
    ]


def _read_from() -> str:
    return str(next(iter(printed().values()))["read_from"])


def _anchor(evidence: Evidence, scale: str, bits: str) -> Row:
    """A printed accuracy; ours is that on the twenty labelled images, which gives no verdict on ImageNet's 50,000."""
    row, unit = printed()[bits], ANCHORS[bits]
    margin = evidence.preregistered["margin"]
    ours = list(evidence.values(scale, unit, "top1").values())
    judged = judge_number(row["top1"], ours, margin, scale) if ours else Judged("", margin=margin)
    state, reason = evidence.state(scale, unit)
    if scale == "paper":
        state, reason = "missing", "data: ImageNet's validation images are not at hand"
    return Row(
        target=TARGET,
        claim="top1",
        kind="number",
        scale=scale,
        row=unit,
        column=bits,
        published=str(row["top1"]),
        read_from=str(row["read_from"]),
        state=state,
        reason=reason or "ours: twenty labelled images, not ImageNet's 50,000",
        **judged.columns(),  # type: ignore[arg-type]
    )


# Files


def render(title: str, evidence: Evidence, judged: Sequence[Row], folder: Path) -> list[Path]:
    """Write every file of the target; pictures only where there is something to draw."""
    layers = csv_text(LAYERS, [line for scale in evidence.scales for line in layer_lines(evidence, scale)], digits=4)
    body = text(title, {"": evidence}, judged)
    paths = [write_csv(judged, folder / f"{TARGET}.csv"), write_text(folder / f"{TARGET}_layers.csv", layers)]
    pictures: list[Path] = []
    for name, drawing in picture.PICTURES.items():
        drawn = drawing(evidence)
        if drawn is not None:
            made_from = fingerprint(renderer=picture.DRAWING, records=evidence.records)
            pictures += save_figure(drawn, folder / name, made_from)
            body += f"\n![{picture.ALT[name]}]({name}.png)\n"
    return [*paths, write_text(folder / f"{TARGET}.md", body), *pictures]


def layer_lines(evidence: Evidence, scale: str) -> list[tuple[object, ...]]:
    """Signal-to-noise ratio of each layer's output, of every quantized network; columns as in `LAYERS`."""
    lines: list[tuple[object, ...]] = []
    for cell in cells(WIDTHS):
        seeds = len(evidence.seeds(scale, cell.unit))
        lines += [
            (scale, *cell, name, *mean_sd(ratios), seeds)
            for name, ratios in layer_ratios(evidence, scale, cell).items()
        ]
    return lines


# Text

CAPTION = f"""\
Weights of every layer, and the inputs of all but the first, are quantized after training; nothing is trained. The
calibrator finds the ranges of inputs; the setting `weights` says which finds those of weights. Calibrated on CIFAR-10
training images enlarged from 32 x 32 to 224 x 224, which are smoother than ImageNet's: its ranges would be others.
Means over seeds, each with images of its own.

- *SNR*: power of the float network's output over that of the difference.
- *Agreement*: images that keep the float network's class ({NETWORKS["efficientnet_lite0"]}) or the nearest neighbour
  that they have in its embedding ({NETWORKS["mobilenetv2"]}, whose weights have no classifier).
- *Neighbour's class*: images whose nearest neighbour is of the same CIFAR-10 class.
- *Top-1*: right among twenty labelled ImageNet images, where an image is 5 %; all else on CIFAR-10 test images enlarged
  to 224 x 224.
"""


def text(title: str, sources: Mapping[str, Evidence], judged: Sequence[Row]) -> str:
    """The page: print, claims, and a table for each source and scale."""
    parts = [CAPTION, _published(), _claims(next(iter(sources.values())), judged)]
    return page_text(title, parts, sources, results)


def _published() -> str:
    float_top1, int8 = (printed()[bits]["top1"] for bits in ANCHORS)
    return f"Published, on ImageNet: {NETWORKS['efficientnet_lite0']} {float_top1} % in float, {int8} % in INT8.\n"


def _claims(evidence: Evidence, judged: Sequence[Row]) -> str:
    plan = evidence.preregistered
    known = {"patterns": [*plan.get("print_patterns", ()), *plan.get("patterns", ())]}
    return "## Claims\n\n" + pattern_table([row for row in judged if row.kind == "pattern"], known, evidence.values)


def results(name: str, evidence: Evidence, scale: str) -> str:
    """Every network of one source at one scale."""
    header = ("network", "bits", "weights", "calibrator", *COLUMNS.values())
    lines: list[list[str]] = []
    for network, label in NETWORKS.items():
        lines.append([label, "float", "", "", *_values(evidence, scale, float_unit(network))])
        lines += [
            [label, str(cell.bits), f"per {cell.granularity}", cell.calibrator, *_values(evidence, scale, cell.unit)]
            for cell in cells(WIDTHS)
            if cell.network == network and evidence.seeds(scale, cell.unit)
        ]
    seeds = len({record.seed for record in evidence.at(scale)})
    return (
        f"## Results: {name}\n\n{markdown_table(header, lines, 'lrllrrrr')}\n"
        f"`{scale}`: {SCALES.get(scale, scale)}; {seeds} seed{'s' * (seeds > 1)}; {settings_text(evidence.at(scale))}. "
        f"Every layer is in `{TARGET}_layers.csv`; drawn is {DRAWN[1]} of {NETWORKS[DRAWN[0]]}.\n"
    )


def _values(evidence: Evidence, scale: str, unit: str) -> list[str]:
    return [mean_text(evidence.values(scale, unit, column).values(), empty="") for column in COLUMNS]
