"""One pretrained network calibrated by one method: what `python -m repro calibrate` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import datasets
from repro.datasets.files import Report, quiet
from repro.errors import UsageError, suggestion
from repro.networks import post_training, pretrained
from repro.ptq import Cell
from repro.ptq.experiment import Images, agreement, outputs, quantize
from repro.quantizers.calibration import Range, calibrator_names
from repro.training.evaluate import top1

BATCH = 16
SETTINGS = {"percent": 99.99, "weights": "mse"}


@dataclass(frozen=True)
class Found:
    """Ranges of a network's inputs by layer, and how near it stays to the float one."""

    cell: Cell
    images: int
    ranges: Mapping[str, Range]
    largest: Mapping[str, float]
    """Largest magnitude that was seen, by layer."""
    agreement: float
    """% of the images; see `repro.ptq`."""
    snr: float
    """Of the output, dB."""
    hits: Mapping[str, int] | None
    """Right among the labelled ImageNet images, `quantized` and `float`, `of` how many; None without a classifier."""

    def as_json(self) -> dict[str, Any]:
        """All of it, for another program."""
        ranges = {
            layer: {"step": r.step, "lower": r.lower, "upper": r.upper, "largest": self.largest[layer]}
            for layer, r in self.ranges.items()
        }
        shown = {"images": self.images, "agreement": self.agreement, "snr_db": self.snr, "imagenet_samples": self.hits}
        return {**self.cell._asdict(), **shown, "ranges": ranges}

    def as_text(self) -> str:
        """A line for each layer's input, then the comparison."""
        width = max(map(len, self.ranges))
        lines = [f"{'input of':{width}}  {'lower':>9} {'upper':>9} {'step':>9} {'largest':>9}"]
        for layer, r in self.ranges.items():
            lines.append(f"{layer:{width}}  {r.lower:9.4f} {r.upper:9.4f} {r.step:9.5f} {self.largest[layer]:9.4f}")
        same = (
            "the float network's class"
            if self.hits
            else "the float network's nearest neighbour (these weights have no classifier)"
        )
        lines += [
            "",
            f"{self.cell.network} at {self.cell.bits} bits, ranges by {self.cell.calibrator}, weights (by mse) per "
            f"{self.cell.granularity}; calibrated on {self.images} CIFAR-10 training images at 224 x 224",
            f"on {self.images} CIFAR-10 test images {self.agreement:.1f} % keep {same}",
            f"signal-to-noise ratio of the output: {self.snr:.1f} dB",
        ]
        if self.hits:
            lines.append("labelled ImageNet images: {quantized} of {of} right, {float} in float".format(**self.hits))
        return "\n".join(lines)


def calibrated(cell: Cell, images: int, data_root: Path | None = None, report: Report = quiet) -> Found:
    """Calibrate a network on the first CIFAR-10 training images, and compare it on as many test images.

    Raises `UsageError` for an unknown network or method, `ReproError` where data cannot be had.
    """
    known = pretrained.get(cell.network)
    if cell.calibrator not in calibrator_names():
        raise UsageError(f"no calibrator {cell.calibrator!r}: {suggestion(cell.calibrator, calibrator_names())}")
    for name in ("cifar10", "imagenet_samples"):
        datasets.fetch(name, data_root, report)
    shown = Images(known, BATCH, data_root=data_root)
    network = pretrained.load(cell.network, data_root, report=report)
    histograms = post_training.watch(network, shown.cifar10("train", 0, images), known.signed)
    quantized, ranges = quantize(network, histograms, cell, SETTINGS)
    exact, samples = outputs(network, shown.cifar10("test", 0, images)), outputs(network, iter([shown.samples()]))
    with post_training.quantized_inputs(quantized, ranges):
        found = outputs(quantized, shown.cifar10("test", 0, images))
        answers = {"quantized": outputs(quantized, iter([shown.samples()])), "float": samples}
    labels = shown.labels()
    hits = {name: int((answer.argmax(1).numpy() == labels).sum()) for name, answer in answers.items()}
    return Found(
        cell,
        images,
        ranges,
        {layer: float(histogram.numpy()[2][0]) for layer, histogram in histograms.items()},
        top1(agreement(found, exact, known)),
        post_training.decibel(post_training.power(exact), post_training.power(exact - found)),
        {**hits, "of": len(labels)} if known.classes else None,
    )
