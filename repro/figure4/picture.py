"""The pictures: every pair's runs as boxes, published and ours; and the sweep over delta."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from repro.evidence.collection import Evidence
from repro.evidence.intervals import FEWEST_FLIPPED, paired_difference
from repro.evidence.render import style
from repro.figure4 import EWGS, MAIN, NETWORKS, SCALES, Network
from repro.figure4.cells import Cell, printed, widths
from repro.figure4.claims import Ours, print_study
from repro.figure4.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWING = 5
"""Version of the drawing, part of the pictures' fingerprint; raised when they change."""

DASHES = ((5, 3), (2, 2))
"""Of the lines at the means of the printed figure's two references: the pairs of one scaler that it shows."""
COLOURS = {"published": "#0072B2", "small": "#009E73", "lite0": "#D55E00"}
DATA = {"cifar10": "CIFAR-10", "imagenet": "ImageNet"}
ALT = {
    "figure4": "Accuracy of every pair of scalers at 3 bits, published and ours",
    "figure4_differences": "Differences to STE at 3, 2 and 4 bits, published and ours",
    "figure4_delta": "ewgs over decades of delta",
}


def order(bits: int) -> list[Cell]:
    """Cells of a width, mixed pairs first, in the order of the published file; references last."""
    cells = [cell for cell in printed() if cell.bits == bits]
    return sorted(cells, key=lambda cell: cell.weights == cell.activations)


def pairs(evidence: Evidence) -> Figure:
    """The printed figure and ours beside it: a box of all runs for each pair, dashed lines at two references."""
    from matplotlib.figure import Figure

    studies = [
        ("Published:\nEfficientNet-Lite0,\nImageNet, 20 runs", "published", print_study(MAIN)),
        *_ours(evidence, MAIN),
    ]
    with style():
        figure = Figure(figsize=(3.5 * len(studies) + 1.6, 8.9))
        panels = figure.subplots(1, len(studies), sharey=True, squeeze=False)[0]
        for axes, (title, source, study) in zip(panels, studies, strict=True):
            _boxes(axes, study, order(MAIN), COLOURS[source])
            axes.set_title(title, fontweight="bold", fontsize=14, pad=26)
            axes.set_xlabel("top-1 accuracy, %", fontsize=13)
        _pair_labels(panels[0], order(MAIN), "weights / activations")
        figure.supxlabel(
            "Dots: runs. Diamond: mean. Box: quartiles and median; whiskers: to the farthest run within 1.5 boxes.",
            fontsize=11,
        )
    return figure


def _ours(evidence: Evidence, bits: int) -> list[tuple[str, str, Study]]:
    """Title, source and study of each network that has runs, at the largest scale that has any of it."""
    found = []
    for network in NETWORKS.values():
        for scale in reversed(evidence.scales):
            study = Ours(evidence, scale, network).study(bits)
            if study.cells:
                found.append((_title(network, scale, study), network.name, study))
                break
    return found


def _title(network: Network, scale: str, study: Study) -> str:
    counts = {len(values) for values in study.cells.values()}
    runs = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"Ours, {scale}:\n{network.label},\n{DATA[str(SCALES[scale]['data'])]}, {runs} seed{'s' * (max(counts) > 1)}"


def _boxes(axes: Axes, study: Study, cells: list[Cell], colour: str) -> None:
    for row, cell in enumerate(cells):
        values = sorted(study.cells.get(cell, {}).values())
        if not values:
            continue
        if len(values) >= 5:
            axes.boxplot(
                [values], positions=[row], orientation="horizontal", widths=0.62, patch_artist=True, showfliers=False,
                manage_ticks=False, boxprops={"facecolor": f"{colour}33", "edgecolor": colour, "linewidth": 1.4},
                medianprops={"color": colour, "linewidth": 2.6}, whiskerprops={"color": colour, "linewidth": 1.4},
                capprops={"color": colour, "linewidth": 1.4},
            )  # fmt: skip
        heights = [row + 0.18 * ((i % 3) - 1) for i in range(len(values))]
        axes.plot(values, heights, "o", color=colour, markersize=3.4 if len(values) >= 5 else 6.5, alpha=0.75, mew=0)
        axes.plot([fmean(values)], [row], "D", color="black", markersize=5.5, zorder=5)
    references = [cell for cell in cells if cell.weights == cell.activations and printed()[cell].drawn]
    means = {cell: study.means()[cell] for cell in references if cell in study.cells}
    for cell, dashes in zip(references, DASHES, strict=True):
        if cell in means:
            axes.axvline(means[cell], color="#404040", linestyle=(0, dashes), linewidth=1.5, zorder=1)
            side = "right" if means[cell] == min(means.values()) else "left"
            axes.annotate(
                cell.pair, (means[cell], 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                textcoords="offset points", ha=side, va="bottom", fontsize=10.5,
            )  # fmt: skip
    mixed = sum(cell.weights != cell.activations for cell in cells)
    axes.axhline(mixed - 0.5, color="#BBBBBB", linewidth=1.0)
    axes.tick_params(labelsize=12)
    axes.grid(axis="y", visible=False)


def _pair_labels(axes: Axes, cells: list[Cell], heading: str) -> None:
    axes.set_yticks(range(len(cells)), [cell.pair.replace("_noise", "") for cell in cells], fontsize=13)
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.annotate(
        heading, (0, 1), xycoords="axes fraction", xytext=(-10, 12), textcoords="offset points",
        ha="right", va="bottom", fontsize=13, fontweight="bold",
    )  # fmt: skip


def differences(evidence: Evidence) -> Figure:
    """Differences to STE at every width, with their simultaneous intervals."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with style():
        figure = Figure(figsize=(4.2 * len(widths()), 8.2))
        panels = figure.subplots(1, len(widths()), squeeze=False)[0]
        labels: dict[str, str] = {}
        for panel, (axes, bits) in enumerate(zip(panels, widths(), strict=True)):
            cells = [cell for cell in order(bits) if cell != cell.control]
            studies = [("Published runs", "published", print_study(bits)), *_ours(evidence, bits)]
            for i, (title, source, study) in enumerate(studies):
                labels[source] = title.replace("\n", " ")
                for row, cell in enumerate(cells):
                    interval = study.differences.get(cell)
                    if interval is None:
                        continue
                    height = row + 0.24 * (i - (len(studies) - 1) / 2)
                    if interval.low is not None and interval.high is not None:
                        axes.plot([interval.low, interval.high], [height] * 2, color=COLOURS[source], linewidth=2.4)
                    axes.plot([interval.estimate], [height], "o", color=COLOURS[source], markersize=7)
            found = [(interval, len(study.seeds)) for *_, study in studies for interval in study.differences.values()]
            edges = [interval.estimate for interval, _ in found]
            edges += [
                edge for interval, n in found if n >= FEWEST_FLIPPED for edge in interval[1:3] if edge is not None
            ]
            wide = 0.15 * (max(edges) - min(edges))
            axes.set_xlim(min(edges) - wide, max(edges) + wide)
            axes.axvline(0, color="#404040", linestyle=(0, (5, 3)), linewidth=1.4)
            axes.set_title(f"{bits} bits", fontweight="bold", fontsize=14, pad=26)
            axes.set_xlabel("top-1 minus ste/ste, points", fontsize=13)
            _pair_labels(axes, cells, "" if panel else "weights / activations")
            axes.grid(axis="y", visible=False)
        keys = [Line2D([], [], color=COLOURS[s], marker="o", label=label) for s, label in labels.items()]
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), fontsize=12)
        figure.supxlabel(
            "Simultaneous 95 % intervals in each panel, whose scales differ; lines that reach an edge go on.",
            fontsize=11,
        )
    return figure


def sweep(evidence: Evidence) -> Figure | None:
    """Accuracy and rounding error of the weights over delta, both minus STE; None where nothing is swept."""
    from matplotlib.figure import Figure

    network = next(network for network in NETWORKS.values() if network.swept)
    sources = [Ours(evidence, scale, network) for scale in reversed(evidence.scales)]
    ours = next((source for source in sources if source.swept()), None)
    if ours is None:
        return None
    cell = Cell(MAIN, *EWGS)
    with style():
        figure = Figure(figsize=(10.4, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        right.set_yscale("symlog", linthresh=1e-3)
        for axes, outcome, label in (
            (left, "top1", "top-1 minus STE, points"),
            (right, "weight_error", "mean |e| minus STE, steps"),
        ):
            control = ours.values(cell.control, outcome)
            for delta, unit_delta in ours.swept().items():
                values = ours.values(cell, outcome, unit_delta)
                if not values.keys() & control.keys():
                    continue
                interval = paired_difference(values, control)
                if interval.low is not None and interval.high is not None:
                    axes.plot([delta] * 2, [interval.low, interval.high], color=COLOURS["small"], linewidth=2.4)
                axes.plot([delta], [interval.estimate], "o", color=COLOURS["small"], markersize=8)
                if unit_delta is None:
                    axes.axvline(delta, color="#BBBBBB", linewidth=1.0, zorder=0)
                    axes.annotate(
                        "delta of the study", (delta, 0), xycoords=("data", "axes fraction"), xytext=(4, 5),
                        textcoords="offset points", fontsize=10.5,
                    )  # fmt: skip
            axes.axhline(0, color="#404040", linestyle=(0, (5, 3)), linewidth=1.4)
            axes.set_xscale("log")
            axes.set_xlabel("delta", fontsize=13)
            axes.set_ylabel(label, fontsize=13)
        n = len(ours.values(cell.control))
        title = (
            f"{cell.pair} at {cell.bits} bits over delta: {network.label}, {ours.scale}, {n} seeds, 95 % t intervals"
        )
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)
    return figure


PICTURES: Mapping[str, Callable[[Evidence], Figure | None]] = {
    "figure4": pairs,
    "figure4_differences": differences,
    "figure4_delta": sweep,
}
