"""Size and latency, INT8 against FP32: the seminar's two bar charts for EfficientNet-B2, made anew on this machine.

The charts' numbers are not in the text, and latency is a matter of the machine: what is shown is ours and not
comparable with print. Each network is exported to ONNX and really quantized (onnxruntime, static, QDQ: int8 weights
per channel, uint8 activations per tensor); both files are weighed and timed in turns in one process, on one thread.

Deviations, numbered:

1. Random weights, batch norm settled on random images: neither size nor speed depends on what a network has learned.
   Accuracy after quantization is the subject of `ptq`.
2. Beside EfficientNet-B2 (260 px) three networks of 224 px: what INT8 gains depends on the operators of a network.
"""

from __future__ import annotations

import fcntl
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.errors import ReproError, UsageError
from repro.evidence import render
from repro.evidence.claims import Row
from repro.evidence.collection import Evidence
from repro.evidence.files import write_text
from repro.evidence.patterns import pattern_rows, pattern_table
from repro.evidence.records import Record
from repro.evidence.render import markdown_table
from repro.targets import Context, Outcome, Scalar, Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMERICS = 1
"""Raised by hand when the code changes what a unit computes."""
DRAWING = 2
"""Version of the drawing, part of the pictures' fingerprint; raised when they change."""


@dataclass(frozen=True)
class Network:
    """A network of timm's, by its name there, and the side of its square input in pixels."""

    label: str
    timm: str
    pixels: int


NETWORKS = {
    "efficientnet_b2": Network("EfficientNet-B2", "efficientnet_b2", 260),
    "efficientnet_lite0": Network("EfficientNet-Lite0", "tf_efficientnet_lite0", 224),
    "resnet18": Network("ResNet18", "resnet18", 224),
    "mobilenetv2": Network("MobileNetV2", "mobilenetv2_100", 224),
}
"""Units of the target, the seminar's network first."""
FORMATS = ("fp32", "int8")
BATCHES = (1, 32)
QUANTILES = ("p20", "p50", "p80")
LIMITS = {"rounds": (1, 10_000), "warmup": (0, 1000), "calibration_images": (2, 1000)}
"""Smallest and largest value of each setting."""


# Measuring


def measure(network: Network, settings: Mapping[str, Any], seed: int, context: Context) -> Outcome:
    """Export, quantize, weigh and time one network. Values by column:

    `fp32_mb`, `int8_mb`: the files, in units of 10^6 bytes; `int8_convolutions`: % of the convolutions that the
    runtime computes in integers; `fp32_1_p50` and the like: quantiles over rounds of the time for a batch of 1 or 32,
    in milliseconds; `speedup_1_p50` and the like: those of the ratio FP32 / INT8 within a round.
    """
    import numpy as np
    import timm
    import torch
    from torch.optim.swa_utils import update_bn

    from repro.networks import onnx_export
    from repro.training.streams import stream, torch_seeded

    def images(purpose: str, n: int) -> np.ndarray:
        shape = (n, 3, network.pixels, network.pixels)
        return stream(seed, purpose).standard_normal(shape, dtype=np.float32)

    with torch_seeded(seed, "initialisation"):
        float_network = timm.create_model(network.timm)
    example = images("calibration", settings["calibration_images"])
    update_bn([torch.from_numpy(example)], float_network)
    context.progress(0, 4, "exporting")
    fp32 = onnx_export.export(float_network, torch.from_numpy(example[:2]), context.folder / "fp32.onnx")
    context.progress(1, 4, "quantizing")
    int8 = onnx_export.quantize_int8(fp32, context.folder / "int8.onnx", [image[None] for image in example])
    values = {f"{path.stem}_mb": path.stat().st_size / 1e6 for path in (fp32, int8)}
    values["int8_convolutions"] = 100 * onnx_export.int8_convolutions(int8)
    sessions = [onnx_export.session(path) for path in (fp32, int8)]
    for done, batch in enumerate(BATCHES, 2):
        context.progress(done, 4, f"timing batches of {batch}")
        times = onnx_export.interleaved(sessions, images("timing", batch), settings["rounds"], settings["warmup"])
        for name, column in zip((*FORMATS, "speedup"), (*times.T, times[:, 0] / times[:, 1]), strict=True):
            found = np.percentile(column, [int(q[1:]) for q in QUANTILES])
            values |= {f"{name}_{batch}_{q}": float(x) for q, x in zip(QUANTILES, found, strict=True)}
    context.progress(4, 4, "")
    runs = len(FORMATS) * sum(BATCHES) * (settings["rounds"] + settings["warmup"])
    return Outcome({key: round(value, 6) for key, value in values.items()}, {}, {}, [], images=runs)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait for the lock `path`: what is measured side by side slows its neighbour down."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# What is recorded


@dataclass(frozen=True)
class Measured:
    """What one store holds at one scale; every repeat (seed) is a process of its own."""

    evidence: Evidence
    scale: str

    @property
    def records(self) -> list[Record]:
        return [record for record in self.evidence.records if record.scale == self.scale]

    @property
    def networks(self) -> list[str]:
        """Those with any record."""
        return [name for name in NETWORKS if self.evidence.seeds(self.scale, name)]

    def median(self, network: str, column: str) -> float:
        """The median over repeats."""
        return statistics.median(self.evidence.values(self.scale, network, column).values())

    def quantiles(self, network: str, name: str, batch: int) -> tuple[float, ...]:
        """20th, 50th and 80th percentile over rounds, each the median over repeats."""
        return tuple(self.median(network, f"{name}_{batch}_{q}") for q in QUANTILES)

    def size_ratio(self, network: str) -> float:
        """FP32 over INT8, on disk."""
        return self.median(network, "fp32_mb") / self.median(network, "int8_mb")


def cell(evidence: Evidence, scale: str, network: str, column: str) -> Mapping[int, float]:
    """FP32 / INT8 by seed, under the names of the patterns: `smaller` on disk; `speedup_1`, the median over rounds."""
    if column == "smaller":
        fp32, int8 = (evidence.values(scale, network, f"{name}_mb") for name in FORMATS)
        return {seed: fp32[seed] / int8[seed] for seed in fp32}
    return evidence.values(scale, network, f"{column}_p50")


# The picture

COLOUR = {"fp32": "#9AA5B1", "int8": "#0072B2"}
SLOWER = "#B84A00"


def picture(measured: Measured) -> Figure:
    """The bar charts: size, time of one image alone, time per image in a batch of 32; lines reach from p20 to p80."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Patch

    names = measured.networks
    with render.style():
        figure = Figure(figsize=(13.6, 6.0), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.03))
        size, *latency = figure.subplots(1, 1 + len(BATCHES), sharey=True)
        sizes = {f: [(measured.median(name, f"{f}_mb"),) * 3 for name in names] for f in FORMATS}
        _panel(size, "Size on disk", "MB", "bold: times smaller", sizes, [measured.size_ratio(name) for name in names])
        for axes, batch in zip(latency, BATCHES, strict=True):
            title, unit = ("Latency, one image", "ms") if batch == 1 else (f"Latency, batch of {batch}", "ms per image")
            times = {f: [_each(measured.quantiles(name, f, batch), batch) for name in names] for f in FORMATS}
            gains = [measured.quantiles(name, "speedup", batch)[1] for name in names]
            _panel(axes, title, unit, "bold: times faster, below 1 slower", times, gains)
        size.set_yticks(range(len(names)), [NETWORKS[name].label for name in names])
        size.set_ylim(len(names) - 0.5, -0.5)
        figure.suptitle("INT8 against FP32", x=0.01, ha="left", fontsize=17, fontweight="bold")
        figure.supxlabel(_where(measured, "\n"), x=0.01, ha="left", fontsize=10, color="#505050", linespacing=1.5)
        handles = [Patch(color=COLOUR[name], label=name.upper()) for name in FORMATS]
        figure.legend(handles=handles, loc="upper right", ncols=2, fontsize=13, borderaxespad=0.3)
    return figure


def _each(times: tuple[float, ...], batch: int) -> tuple[float, ...]:
    return tuple(time / batch for time in times)


def _panel(
    axes: Axes,
    title: str,
    unit: str,
    note: str,
    bars: Mapping[str, Sequence[tuple[float, ...]]],
    gains: Sequence[float],
) -> None:
    """Two bars per network with their values, and beside the lower one, bold, what INT8 gains."""
    longest = max(high for values in bars.values() for *_, high in values)
    for offset, (name, values) in zip((-0.2, 0.2), bars.items(), strict=True):
        for row, (low, middle, high) in enumerate(values):
            axes.barh(row + offset, middle, 0.36, color=COLOUR[name])
            if high > low:
                axes.plot((low, high), (row + offset,) * 2, color="#202020", linewidth=1.4, solid_capstyle="butt")
            value = axes.text(high + 0.02 * longest, row + offset, _short(middle), va="center_baseline", fontsize=11)
            if name == "int8":
                colour = COLOUR["int8"] if gains[row] > 1 else SLOWER
                gain: dict[str, Any] = {
                    "text": f"{_short(gains[row])} ×",
                    "fontweight": "bold",
                    "fontsize": 13,
                    "color": colour,
                }
                axes.annotate(xy=(1, 0), xycoords=value, xytext=(9, 0), textcoords="offset points", **gain)
    axes.set_title(title, fontweight="bold", fontsize=13, pad=24)
    axes.text(0, 1.02, note, transform=axes.transAxes, color="#505050")
    axes.set_xlabel(unit)
    axes.set_xlim(0, 1.55 * longest)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelsize=13)


def _short(x: float) -> str:
    """Three digits.

    >>> _short(36.96), _short(8.306), _short(123.4)
    ('37.0', '8.31', '123')
    """
    return f"{x:.{max(0, 2 - len(str(int(x))) + 1)}f}"


def _where(measured: Measured, separator: str = " ") -> str:
    """Whose numbers these are, and from which machine."""
    machines = ", ".join(sorted({record.cpu for record in measured.records}))
    repeats = len({record.seed for record in measured.records})
    ours = (
        f"Ours, scale {measured.scale}, not comparable with print: {machines}, one thread, onnxruntime, random weights."
    )
    several = f"Median of {repeats} process{'es' * (repeats > 1)}"
    return f"{ours}{separator}{several}; lines reach from the 20th to the 80th percentile of rounds."


# The target


@dataclass(frozen=True)
class SizeLatency:
    """The target; see `repro.targets.Target`."""

    name: str = "size_latency"
    title: str = "Size and latency of INT8 against FP32"
    kind: str = "figure"
    needs: tuple[str, ...] = ()
    artefact: str = ""
    values_unit: str = "MB, % of convolutions, ms, or a ratio, by column"
    scales: Mapping[str, Mapping[str, Scalar]] = field(
        default_factory=lambda: {
            "smoke": {"rounds": 2, "warmup": 0, "calibration_images": 2},
            "cpu": {"rounds": 6, "warmup": 1, "calibration_images": 16},
        }
    )
    seeds: Mapping[str, int] = field(default_factory=lambda: {"smoke": 1, "cpu": 3})

    def units(self, scale: str, seeds: int, settings: Mapping[str, Scalar]) -> list[Unit]:
        """One unit per network and repeat."""
        for key, (low, high) in LIMITS.items():
            if not isinstance(value := settings[key], int) or not low <= value <= high:
                raise UsageError(f"{key}={value}: give a whole number from {low} to {high}")
        return [
            Unit(self.name, scale, network, seed, dict(settings), NUMERICS)
            for seed in range(seeds)
            for network in NETWORKS
        ]

    def ready(self, device: str) -> None:
        """Raise `ReproError` without the extra `onnx`, or for another device than the CPU."""
        from repro.networks.onnx_export import require

        if device != "cpu":
            raise ReproError(f"{self.name} measures the CPU: leave out --device {device}")
        require()

    def run(self, unit: Unit, context: Context) -> Outcome:
        """Measure one network, one at a time."""
        context.progress(0, 4, "waiting for another network's timing")
        with alone(context.folder.parent / "timing.lock"):
            return measure(NETWORKS[unit.name], unit.settings, unit.seed, context)

    def rows(self, evidence: Evidence) -> list[Row]:
        """The preregistered patterns."""
        return pattern_rows(evidence, partial(cell, evidence), "cpu")

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        """Claims, page and, where anything is recorded, the plotted points and the picture of the largest scale."""
        page = self._page({"": evidence}, evidence)
        paths = render.write_page(self.name, self.rows(evidence), page, folder)
        if not evidence.scales:
            return paths
        measured = Measured(evidence, evidence.scales[-1])
        points = render.csv_text(POINTS, _points(measured))
        fingerprint = render.fingerprint(renderer=DRAWING, records=measured.records)
        return [
            *paths,
            write_text(folder / f"{self.name}_points.csv", points),
            *render.save_figure(picture(measured), folder / self.name, fingerprint),
        ]

    def summary(self, committed: Evidence, local: Evidence) -> str:
        """Committed and local measurements, and the claims judged on the committed ones."""
        return self._page({"committed": committed, "this machine": local}, committed, picture=False)

    def _page(self, sources: Mapping[str, Evidence], judged: Evidence, picture: bool = True) -> str:
        image = [f"![{self.title}]({self.name}.png)\n"] if picture and judged.scales else []
        claims = f"## Claims\n\n{pattern_table(self.rows(judged), judged.preregistered, partial(cell, judged))}"
        return render.page_text(self.title, [CAPTION, *image, claims], sources, _table)


POINTS = ("network", "format", "quantity", "unit", "p20", "p50", "p80")
"""Columns of `size_latency_points.csv`."""


def _points(measured: Measured) -> list[tuple[object, ...]]:
    """What is plotted, in the order of `POINTS`; times are those of a batch."""
    points: list[tuple[object, ...]] = []
    for network in measured.networks:
        sizes = [(name, "size", "MB", *(measured.median(network, f"{name}_mb"),) * 3) for name in FORMATS]
        times = [
            (name, f"batch of {batch}", "ms", *measured.quantiles(network, name, batch))
            for batch in BATCHES
            for name in FORMATS
        ]
        points += [(network, *point) for point in (*sizes, *times)]
    return points


def _table(name: str, evidence: Evidence, scale: str) -> str:
    """One store's measurements at one scale, a line per network."""
    measured = Measured(evidence, scale)
    header = ["network", "MB FP32", "INT8", "smaller", "INT8 convolutions"]
    for batch in BATCHES:
        header += [f"ms FP32, batch {batch}", "INT8", "faster"]
    lines = []
    for network in measured.networks:
        sizes = [_short(measured.median(network, f"{f}_mb")) for f in FORMATS]
        line = [NETWORKS[network].label, *sizes, f"{measured.size_ratio(network):.2f} ×"]
        line.append(f"{measured.median(network, 'int8_convolutions'):.0f} %")
        for batch in BATCHES:
            line += [_spread(measured.quantiles(network, f, batch)) for f in FORMATS]
            low, middle, high = measured.quantiles(network, "speedup", batch)
            line.append(f"{middle:.2f} × ({low:.2f} to {high:.2f})")
        lines.append(line)
    workers = max(record.workers for record in measured.records)
    return "\n".join(
        (
            f"## Measured: {name}\n",
            markdown_table(header, lines, "l" + "r" * (len(header) - 1)),
            f"{_where(measured)} {render.settings_text(measured.records)}, workers {workers}.\n",
        )
    )


def _spread(quantiles: tuple[float, ...]) -> str:
    low, middle, high = map(_short, quantiles)
    return f"{middle} ({low} to {high})"


CAPTION = """\
Each network as an ONNX file in FP32 and in INT8 (static quantization, weights int8 per channel, activations uint8 per
tensor): what the files weigh, and what a batch takes on the CPU; median with the 20th and the 80th percentile, FP32
and INT8 in turns. *Smaller* and *faster* are FP32 / INT8, the latter within a round. The seminar shows such charts for
EfficientNet-B2 and prints no number in its text: these are ours, of this machine, and not comparable with print.
*INT8 convolutions*: the share that the runtime really computes in integers. The tables show medians over processes;
claims are judged on the mean over processes, with its t interval.
"""

TARGET = SizeLatency()
