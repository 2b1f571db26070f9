"""Accuracy over bit-width, a small panel per method: the print and each scale of ours in the same axes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro.adaptive.claims import Measured
from repro.adaptive.methods import INDIVIDUAL, METHODS
from repro.evidence.collection import Evidence
from repro.evidence.intervals import mean_sd
from repro.evidence.render import COLOURS, fingerprint, save_figure, style
from repro.published import PublishedTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RENDERER = 4
"""Raised when the drawing changes."""

COLUMNS = 4


def draw(title: str, printed: PublishedTable, evidence: Evidence, stem: Path) -> list[Path]:
    """Write the picture of a table as PNG and SVG, and return their paths."""
    records = [record for scale in evidence.scales for record in evidence.at(scale)]
    mark = fingerprint(renderer=RENDERER, records=records, published=["tables"])
    return save_figure(picture(title, printed, evidence), stem, mark)


def picture(title: str, printed: PublishedTable, evidence: Evidence) -> Figure:
    """The picture of a table.

    A panel shows one method's top-1 in percent at each bit-width: printed values in grey with open markers, ours as
    mean and standard deviation over seeds; the thin line is our Individual's. Rows that are ours have a panel where
    they are recorded, and nothing printed in it.
    """
    from matplotlib.figure import Figure

    sources = [Measured(printed, evidence, scale) for scale in evidence.scales]
    own = [m for m, method in METHODS.items() if method.origin and any(_curve(source, m)[0] for source in sources)]
    methods = [*printed.methods, *own]
    rows = -(-len(methods) // COLUMNS)
    with style():
        figure = Figure(figsize=(10, 2.3 * rows + 0.8))
        grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True).flatten()
        for axes, method in zip(grid, methods, strict=False):
            _panel(axes, printed, method, sources)
        for axes in grid[len(methods) :]:
            axes.axis("off")
        for axes in grid[len(methods) - COLUMNS : len(methods)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("bits of weights\nand activations", fontsize=10)
        keys = {label: key for axes in grid for key, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=len(keys), fontsize=10)
        figure.suptitle(title, x=0.01, ha="left")
        figure.supylabel("top-1 (%)")
    return figure


def _panel(axes: Axes, printed: PublishedTable, method: str, sources: Sequence[Measured]) -> None:
    x = range(len(printed.bits))
    if method in printed.methods:
        published = [float(printed.cell(method, bits)) for bits in printed.bits]
        axes.plot(x, published, "o--", color="#8A8A8A", markerfacecolor="white", markersize=5, label="published")
    for source, colour in zip(sources, COLOURS, strict=False):
        if method != INDIVIDUAL:
            at, mean, _ = _curve(source, INDIVIDUAL)
            axes.plot(at, mean, color=colour, linewidth=0.8, alpha=0.6, label=f"Individual, {source.scale} scale")
        at, mean, sd = _curve(source, method)
        if at:
            label = f"ours, {source.scale} scale (mean ± sd)"
            axes.errorbar(at, mean, sd, fmt="o-", color=colour, markersize=4, capsize=2, label=label)
        else:
            axes.text(0.5, 0.08, "not recorded", transform=axes.transAxes, ha="center", fontsize=9, color=colour)
    axes.set_title(textwrap.fill(METHODS[method].title, 28), fontsize=10)
    axes.set_xticks(x, [str(bits) for bits in printed.bits])
    axes.set_ylim(0, 100)


def _curve(source: Measured, method: str) -> tuple[list[int], list[float], list[float]]:
    """Places on the axis, means and standard deviations (0 of a single seed) of the bit-widths that are recorded."""
    cells = [(i, [*source.accuracy(method, bits).values()]) for i, bits in enumerate(source.printed.bits)]
    recorded = [(i, *mean_sd(values)) for i, values in cells if values]
    return [i for i, _, _ in recorded], [mean for _, mean, _ in recorded], [sd or 0.0 for _, _, sd in recorded]
