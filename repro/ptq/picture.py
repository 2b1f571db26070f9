"""The pictures: what each calibrator makes of one layer with outliers, and how noise gathers from layer to layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from repro.evidence.collection import Evidence
from repro.evidence.records import Record
from repro.evidence.render import style
from repro.ptq import CALIBRATORS, DRAWN, NETWORKS, WIDTHS, Cell, float_unit, layer_ratios

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWING = 4
"""Version of the drawing, part of the pictures' fingerprint; raised when they change."""

COLOURS = {"max": "#7A7A7A", "percentile": "#0072B2", "entropy": "#009E73", "mse": "#D55E00"}
BITS = 4
LARGEST_CODE = 2 ** (BITS - 1) - 1


def drawn(evidence: Evidence) -> tuple[Record, dict[str, Mapping[str, float]]] | None:
    """The float network's record and what each calibrator made of the drawn layer; None where one is missing.

    Of the largest scale that has all, and its first seed.
    """
    for scale in reversed(evidence.scales):
        for seed, record in evidence.seeds(scale, float_unit(DRAWN[0])).items():
            found = {
                name: other.values
                for name in CALIBRATORS
                if (other := evidence.seeds(scale, Cell(DRAWN[0], BITS, "channel", name).unit).get(seed))
            }
            if len(found) == len(CALIBRATORS):
                return record, found
    return None


def thresholds(evidence: Evidence) -> Figure | None:
    """Above: the histogram and where each range ends. Below: the values that each calibrator's quantizer can take."""
    from matplotlib.figure import Figure

    data = drawn(evidence)
    if data is None:
        return None
    record, found = data
    right = max(values["drawn.upper"] for values in found.values())
    with style():
        figure = Figure(figsize=(12.6, 6.6))
        grid = figure.add_gridspec(2, 2, height_ratios=(1.5, 1), width_ratios=(3.3, 1))
        top = figure.add_subplot(grid[0, 0])
        bottom = figure.add_subplot(grid[1, 0], sharex=top)
        _histogram(top, record, found)
        _combs(bottom, found, right)
        _prices(figure.add_subplot(grid[1, 1], sharey=bottom), found)
        _moral(figure.add_subplot(grid[0, 1]))
        top.set_xlim(0, 1.02 * right)
        top.tick_params(labelbottom=False)
    return figure


def _histogram(axes: Axes, record: Record, found: Mapping[str, Mapping[str, float]]) -> None:
    uppers, counts = ([point[key] or 0 for point in record.curve] for key in ("upper", "count"))
    shares = [100 * count / sum(counts) for count in counts]
    axes.fill_between([0, *uppers], [shares[0], *shares], step="pre", color="#C9D6E2", linewidth=0)
    axes.step([0, *uppers], [shares[0], *shares], where="pre", color="#5B7083", linewidth=1.0)
    axes.set_yscale("log")
    axes.set_ylim(min(share for share in shares if share) * 0.7, max(shares) * 60)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:g}")
    ranked = sorted(CALIBRATORS, key=lambda name: found[name]["drawn.upper"])
    for height, name in zip(HEIGHTS, ranked, strict=True):  # a name lies above the lines to its left
        threshold = found[name]["drawn.upper"]
        axes.axvline(threshold, ymax=height, color=COLOURS[name], linewidth=2.4)
        axes.annotate(
            f"{name} {threshold:.1f}", (threshold, height), xycoords=("data", "axes fraction"), xytext=(1, 1),
            textcoords="offset points", ha="right", va="bottom", color=COLOURS[name], fontweight="bold", fontsize=13,
        )  # fmt: skip
    axes.set_ylabel("share of values in a bin, %")
    axes.set_title(
        f"One layer, four ranges: what enters {DRAWN[1]} of {NETWORKS[DRAWN[0]]}",
        fontsize=14,
        fontweight="bold",
    )
    axes.grid(axis="x", visible=False)


def _combs(axes: Axes, found: Mapping[str, Mapping[str, float]], right: float) -> None:
    codes = range(LARGEST_CODE + 1)
    for row, name in enumerate(reversed(CALIBRATORS)):
        upper, step, colour = found[name]["drawn.upper"], found[name]["drawn.step"], COLOURS[name]
        axes.plot([0, upper], [row, row], color=colour, linewidth=1.6)
        axes.plot([upper, right], [row, row], color=colour, linewidth=1.6, linestyle=(0, (1, 2)), alpha=0.7)
        axes.plot(
            [code * step for code in codes],
            [row] * len(codes),
            "|",
            color=colour,
            markersize=19,
            mew=2.6,
            clip_on=False,
        )
    axes.set_yticks(range(len(CALIBRATORS)), reversed(CALIBRATORS))
    for label in axes.get_yticklabels():
        label.set(color=COLOURS[label.get_text()], fontweight="bold", fontsize=13)
    axes.set_ylim(-0.6, len(CALIBRATORS) - 0.4)
    axes.set_xlabel("magnitude |x|")
    axes.set_title(
        f"The {len(codes)} magnitudes that {BITS} bits leave; dotted: clipped", fontsize=14, fontweight="bold"
    )
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _prices(axes: Axes, found: Mapping[str, Mapping[str, float]]) -> None:
    """Beside the combs, a line each: step, what is clipped, and the signal-to-noise ratio that both leave."""
    best = max(found, key=lambda name: found[name]["drawn.snr"])
    for place, head in zip(PLACES, ("step", "clipped", "SNR, dB"), strict=True):
        axes.text(place, 1.03, head, transform=axes.transAxes, ha="right", va="bottom", fontweight="bold", fontsize=12)
    for row, name in enumerate(reversed(CALIBRATORS)):
        values = found[name]
        cells = (f"{values['drawn.step']:.2f}", _percent(values["drawn.clipped"]), f"{values['drawn.snr']:.1f}")
        for place, cell in zip(PLACES, cells, strict=True):
            weight = "bold" if name == best and place == PLACES[-1] else "normal"
            axes.text(
                place, row, cell, transform=axes.get_yaxis_transform(), ha="right", va="center", color=COLOURS[name],
                fontsize=12.5, fontweight=weight,
            )  # fmt: skip
    axes.axis("off")


def _moral(axes: Axes) -> None:
    axes.text(
        0.05, 0.55, MORAL, transform=axes.transAxes, va="center", fontsize=12.5, linespacing=1.55, color="#404040"
    )
    axes.axis("off")


HEIGHTS = (0.66, 0.75, 0.84, 0.93)
"""Upper ends of the lines that mark the ranges, from the narrowest."""
PLACES = (0.24, 0.66, 1.0)
"""Right edges of the three columns beside the combs."""
MORAL = """\
A wide range clips
nothing, and leaves
few, far-apart values
where the data are.

A narrow one clips
the tail, and rounds
everything else less.

Seen: CIFAR-10 images
enlarged to 224 x 224."""


def _percent(share: float) -> str:
    """A share in percent as the picture shows it.

    >>> _percent(0.0), _percent(0.0123), _percent(1.234)
    ('none', '0.012 %', '1.2 %')
    """
    return "none" if share == 0 else f"{share:.2g} %"


def depth(evidence: Evidence) -> Figure | None:
    """Signal-to-noise ratio of every layer's output against its place, by network and width, per channel and tensor."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    if not evidence.scales:
        return None
    scale = evidence.scales[-1]
    widths = [b for b in WIDTHS if evidence.seeds(scale, Cell("mobilenetv2", b, "channel", "mse").unit)]
    if not widths:
        return None
    with style():
        figure = Figure(figsize=(4.0 * len(widths) + 0.6, 7.0))
        panels = figure.subplots(len(NETWORKS), len(widths), sharey=True, sharex=True, squeeze=False)
        for line, (network, label) in zip(panels, NETWORKS.items(), strict=True):
            for axes, bits in zip(line, widths, strict=True):
                for granularity, how in GRANULARITY_LINES.items():
                    for name in CALIBRATORS:
                        found = layer_ratios(evidence, scale, Cell(network, bits, granularity, name)).values()
                        ratios = [fmean(values) for values in found]
                        axes.plot(
                            range(1, len(ratios) + 1),
                            ratios,
                            color=COLOURS[name],
                            **{"linewidth": LINE_WIDTHS[name]} | how,
                        )
                axes.axhline(0, color="#404040", linewidth=0.8)
                axes.set_title(f"{label}, {bits} bits", fontweight="bold")
        for axes in panels[-1]:
            axes.set_xlabel("layer, from input to output")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axes in panels[:, 0]:
            axes.set_ylabel("SNR of its output, dB")
        keys = [Line2D([], [], color=COLOURS[name], linewidth=LINE_WIDTHS[name], label=name) for name in CALIBRATORS]
        keys += [
            Line2D([], [], color="#404040", label=f"weights per {g}", **how) for g, how in GRANULARITY_LINES.items()
        ]
        figure.legend(handles=keys, loc="outside upper center", ncols=3, fontsize=12)
    return figure


GRANULARITY_LINES: Mapping[str, dict[str, Any]] = {
    "channel": {"linestyle": "solid"},
    "tensor": {"linestyle": (0, (1.5, 1.5)), "linewidth": 1.3},
}
LINE_WIDTHS = {"max": 4.0, "percentile": 2.9, "entropy": 2.0, "mse": 1.1}
"""Of the lines of layers, weights per channel, so that those that coincide are all seen."""


PICTURES: Mapping[str, Callable[[Evidence], Figure | None]] = {"ptq": thresholds, "ptq_layers": depth}
ALT = {"ptq": "Histogram and thresholds of one layer", "ptq_layers": "Signal-to-noise ratio from layer to layer"}
