"""Post-training quantization, one of the seminar's techniques: two networks, three widths, four calibrators.

EfficientNet-Lite0 and MobileNetV2 with ImageNet weights, batch norm folded, are quantized without any training: weights
per tensor or per channel, the inputs of all layers but the first per tensor, their ranges found by one calibrator. What
differs from the seminar's INT8 result for Lite0 on ImageNet, numbered:

1. ImageNet is not at hand. Calibrated is on CIFAR-10 training images, compared with the float network on CIFAR-10 test
   images, all enlarged to 224 x 224; the labelled ImageNet images are the twenty of `datasets.imagenet_samples`.
2. Ranges are symmetric, with paper A's signs; the seminar's runtime has zero points.
3. MobileNetV2's weights have no classifier: instead of its class, the nearest neighbour in its embedding is compared.
4. The four calibrators find the ranges of activations; those of weights are the `mse` ones throughout (setting
   `weights`; `same` lets each calibrator find both). The KL search was published for activations; a channel has too
   few weights to make a distribution of.
5. The KL search counts the first bin as the second (`zeros="next"`, as NVIDIA's released code does); its slides keep
   the spike of exact zeros that a ReLU leaves, which would pull the threshold down to almost nothing.

Behind a ReLU6 many values are 6 exactly. The KL search takes that spike for outliers and ends the range below it, down
to .6 of the maximum: at 8 bits, where nothing needs clipping, that costs Lite0 dearly. It is the published algorithm's
doing: the plain loop finds the same thresholds.

MobileNetV2 suffers at 8 bits already, by its weights and not by a fault here (folding changes the output by 6e-6 of its
norm; the statistics of batch norm match those of ImageNet images). Its first expanding convolution has a live channel
that is the small difference of terms a thousand times larger: bias 1974, weights adding up to 625 in magnitude, outputs
of .4 +- .5. One step of that layer's input, .05, already moves it by more than the channel is worth. Likewise, the
first depthwise convolution multiplies nearly silent inputs by up to 300. Cross-layer equalisation and bias correction
are the known cure (Nagel et al. 2019, arXiv 1906.04721), and not part of the seminar's techniques.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from repro.errors import UsageError
from repro.evidence.claims import Row
from repro.evidence.collection import Evidence
from repro.targets import Context, Outcome, Scalar, Unit

NUMERICS = 2
"""Raised by hand when the code changes what a unit computes."""

NETWORKS = {"efficientnet_lite0": "EfficientNet-Lite0", "mobilenetv2": "MobileNetV2"}
GRANULARITIES = ("tensor", "channel")
CALIBRATORS = ("max", "percentile", "entropy", "mse")
WIDTHS = range(8, 1, -1)
DRAWN = ("efficientnet_lite0", "blocks.5.0.conv_pw")
"""Network and layer whose input is drawn."""

LIMITS = {
    "calibration_images": (1, 16_666),
    "evaluation_images": (2, 3_333),
    "noise_images": (1, 3_333),
    "batch": (1, 1_000),
    "every": (1, 2_048),
    "percent": (1e-3, 100),
}
"""Range of each setting: images are each seed's own, so three seeds share CIFAR-10."""
WATCHED = ("calibration_images", "evaluation_images", "batch", "every")
"""Settings of the float network's unit; the others have all but `widths`."""


class Cell(NamedTuple):
    """One quantized network of the study."""

    network: str
    bits: int
    granularity: str
    calibrator: str

    @property
    def unit(self) -> str:
        """Name of its unit.

        >>> Cell("mobilenetv2", 4, "channel", "mse").unit
        'mobilenetv2_4bit_channel_mse'
        """
        return f"{self.network}_{self.bits}bit_{self.granularity}_{self.calibrator}"


def cells(widths: Iterable[int]) -> Iterator[Cell]:
    """Every quantized network at these widths, in the order in which they are shown."""
    for network in NETWORKS:
        for bits in widths:
            for granularity in GRANULARITIES:
                for calibrator in CALIBRATORS:
                    yield Cell(network, bits, granularity, calibrator)


def float_unit(network: str) -> str:
    """Name of the unit that watches the float network: all quantized ones of it start from what it saw."""
    return f"{network}_float"


def layer_key(column: str) -> tuple[int, list[int], int]:
    """Sorts the columns of layers as data flow through them: stem, blocks, head, classifier.

    >>> sorted(["snr.conv_head", "snr.blocks.1.0.conv_dw", "snr.blocks.1.0.conv_pw", "snr.conv_stem"], key=layer_key)
    ['snr.conv_stem', 'snr.blocks.1.0.conv_pw', 'snr.blocks.1.0.conv_dw', 'snr.conv_head']
    """
    _, *parts = column.split(".")
    ends = {"conv_stem": 0, "blocks": 1, "conv_head": 2, "classifier": 3}
    first_block = ("conv_dw", "conv_pw")  # the only one that does not expand
    order = first_block if parts[1:3] == ["0", "0"] else ("conv_pw", "conv_dw", "conv_pwl")
    return ends[parts[0]], [int(part) for part in parts[1:-1]], order.index(parts[-1]) if parts[-1] in order else 0


def layer_ratios(evidence: Evidence, scale: str, cell: Cell) -> dict[str, list[float]]:
    """Signal-to-noise ratio in dB of each layer's output over seeds, from the stem to the classifier."""
    names = next((list(record.values) for record in evidence.seeds(scale, cell.unit).values()), [])
    columns = sorted((name for name in names if name.startswith("snr.")), key=layer_key)
    return {c.removeprefix("snr."): list(evidence.values(scale, cell.unit, c).values()) for c in columns}


@dataclass(frozen=True)
class PostTraining:
    """The target; see `repro.targets.Target`."""

    name: str = "ptq"
    title: str = "Post-training quantization: what a calibrator is worth"
    kind: str = "figure"
    needs: tuple[str, ...] = ("cifar10", "efficientnet_lite0", "mobilenetv2", "imagenet_samples")
    artefact: str = "watched.pt"
    values_unit: str = "% (top1, agreement, knn), dB (snr)"
    scales: Mapping[str, Mapping[str, Scalar]] = field(
        default_factory=lambda: {
            "smoke": _scale(widths="8,4", calibration_images=16, evaluation_images=12, noise_images=2, batch=4),
            "cpu": _scale(),
        }
    )
    seeds: Mapping[str, int] = field(default_factory=lambda: {"smoke": 1, "cpu": 3})

    def units(self, scale: str, seeds: int, settings: Mapping[str, Scalar]) -> list[Unit]:
        """The float networks, then every quantized one, of each seed. Raises `UsageError` for an impossible setting."""
        own = {key: value for key, value in settings.items() if key != "widths"}
        widths = _check(own, str(settings["widths"]))
        for key, split, count in (("calibration_images", "training", 50_000), ("evaluation_images", "test", 10_000)):
            if seeds * own[key] > count:  # type: ignore[operator]
                raise UsageError(f"{seeds} seeds of {key}={own[key]}: there are {count} {split} images, each used once")
        watched = {key: own[key] for key in WATCHED}
        units = []
        for seed in range(seeds):
            units += [Unit(self.name, scale, float_unit(n), seed, watched, NUMERICS) for n in NETWORKS]
            units += [
                Unit(self.name, scale, cell.unit, seed, own, NUMERICS, (float_unit(cell.network),))
                for cell in cells(widths)
            ]
        return units

    def run(self, unit: Unit, context: Context) -> Outcome:
        """Watch a float network, or quantize one by what its unit saw and compare."""
        from repro.ptq import experiment

        return experiment.run(unit, context)

    def rows(self, evidence: Evidence) -> list[Row]:
        """The seminar's two numbers, what is claimed of them, and our own patterns."""
        from repro.ptq import page

        return page.rows(evidence)

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        """`ptq.csv`, `ptq_layers.csv`, `ptq.md`; with records also `ptq.png` and `ptq.svg`."""
        from repro.ptq import page

        return page.render(self.title, evidence, self.rows(evidence), folder)

    def summary(self, committed: Evidence, local: Evidence) -> str:
        """Committed and local results side by side, and the claims judged on the committed ones."""
        from repro.ptq import page

        return page.text(self.title, {"committed": committed, "this machine": local}, self.rows(committed))


def _scale(**changed: Scalar) -> dict[str, Scalar]:
    defaults: dict[str, Scalar] = {
        "widths": "8,6,4",
        "calibration_images": 256,
        "evaluation_images": 96,
        "noise_images": 8,
        "batch": 16,
        "every": 32,
        "percent": 99.99,
        "weights": "mse",
    }
    return defaults | changed


def _check(settings: Mapping[str, Scalar], widths: str) -> list[int]:
    """The widths asked for; raises `UsageError` for anything that cannot be."""
    for name, (low, high) in LIMITS.items():
        value = settings[name]
        if not isinstance(value, int | float) or not low <= value <= high:
            raise UsageError(f"{name}={value}: give a value from {low:g} to {high:g}")
    if settings["weights"] not in ("same", *CALIBRATORS):
        raise UsageError(f"weights={settings['weights']}: give same, or one of {', '.join(CALIBRATORS)}")
    known = [part.strip() for part in widths.split(",")]
    if not all(part in map(str, WIDTHS) for part in known) or len(set(known)) < len(known):
        raise UsageError(f"widths={widths}: give different bit-widths from 2 to 8, like 8,6,4")
    return [int(part) for part in known]


TARGET = PostTraining()
