"""One unit of the study really run: a float network watched, or a quantized one made and compared with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.datasets import cifar10, imagenet_samples
from repro.networks import post_training, pretrained
from repro.networks.pretrained import Pretrained
from repro.ptq import DRAWN, NETWORKS, TARGET, WIDTHS, Cell, cells, float_unit
from repro.quantizers.calibration import Histogram, Range
from repro.targets import Context, Outcome, Unit
from repro.training.evaluate import top1
from repro.training.loop import load, save

DIGITS = 4
DRAWN_BINS = 256


def run(unit: Unit, context: Context) -> Outcome:
    """Run `unit`; that of a float network leaves what it saw as its artefact."""
    settings: dict[str, Any] = dict(unit.settings)
    for name in NETWORKS:
        if unit.name == float_unit(name):
            return _watch(name, unit, settings, context)
    cell = next(cell for cell in cells(WIDTHS) if cell.unit == unit.name)
    return _quantize(cell, unit, settings, context)


@dataclass(frozen=True)
class Images:
    """What one network is shown: its normalisation, and where its images go."""

    network: Pretrained
    batch: int
    device: str = "cpu"
    data_root: Path | None = None

    def cifar10(self, split: cifar10.Split, first: int, count: int) -> Iterator[Tensor]:
        """Batches of CIFAR-10 from image `first` on, enlarged and normalised."""
        images = cifar10.load(split, self.data_root).images[first : first + count]
        for start in range(0, len(images), self.batch):
            yield self.network.normalise(enlarged(images[start : start + self.batch]).to(self.device))

    def samples(self) -> Tensor:
        """The labelled ImageNet images, normalised."""
        images = imagenet_samples.load(pretrained.SIZE, self.data_root).images
        return self.network.normalise(torch.from_numpy(images.copy()).to(self.device))

    def labels(self) -> np.ndarray:
        """Their labels."""
        return imagenet_samples.load(pretrained.SIZE, self.data_root).labels


def enlarged(images: np.ndarray, size: int = pretrained.SIZE) -> Tensor:
    """uint8 images (N, 3, H, W) at another size, bicubic: uint8 (N, 3, size, size).

    >>> enlarged(np.full((2, 3, 32, 32), 7, np.uint8)).shape
    torch.Size([2, 3, 224, 224])
    """
    x = torch.from_numpy(images.astype(np.float32))
    return F.interpolate(x, size, mode="bicubic", align_corners=False).round_().clamp_(0, 255).byte()


@torch.inference_mode()
def outputs(network: nn.Module, batches: Iterator[Tensor]) -> Tensor:
    """Outputs of all batches, on the CPU: (N, classes) or (N, features)."""
    return torch.cat([network(batch).flatten(1).cpu() for batch in batches])


def neighbours(features: Tensor) -> np.ndarray:
    """Of each row, the index of the other row most like it by cosine: int64 (N,).

    >>> neighbours(torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])).tolist()
    [1, 0, 1]
    """
    unit = F.normalize(features.double())
    return (unit @ unit.T).fill_diagonal_(-2).argmax(1).numpy()


def _watch(name: str, unit: Unit, settings: Mapping[str, Any], context: Context) -> Outcome:
    known = pretrained.get(name)
    images = Images(known, settings["batch"], context.device, context.data_root)
    network = pretrained.load(name, context.data_root).to(context.device)
    count, test = settings["calibration_images"], settings["evaluation_images"]
    total = count + test

    def told(batches: Iterator[Tensor], done: int, note: str) -> Iterator[Tensor]:
        for batch in batches:
            yield batch
            done += len(batch)
            context.progress(done, total, note)

    calibration = told(images.cifar10("train", unit.seed * count, count), 0, "watching")
    histograms = post_training.watch(network, calibration, known.signed, settings["every"])
    evaluation = outputs(network, told(images.cifar10("test", unit.seed * test, test), count, "evaluating"))
    state = {layer: histogram.state_dict() for layer, histogram in histograms.items()}
    save({"histograms": state, "evaluation": evaluation}, context.folder / TARGET.artefact)
    correct = _correct(network, evaluation, images, unit.seed * test)
    values = {column: top1(hits) for column, hits in correct.items()}
    curve = _drawn(histograms[DRAWN[1]]) if name == DRAWN[0] else []
    return Outcome(values, values, correct, curve, images=total)


def _correct(network: nn.Module, evaluation: Tensor, images: Images, first: int) -> dict[str, np.ndarray]:
    """`knn`: the nearest neighbour has the same CIFAR-10 class; `top1`: right among the labelled ImageNet images.

    The latter only where there is a classifier.
    """
    labels = cifar10.load("test", images.data_root).labels[first : first + len(evaluation)]
    correct = {"knn": labels[neighbours(evaluation)] == labels}
    if images.network.classes:
        samples = outputs(network, iter([images.samples()]))
        correct["top1"] = samples.argmax(1).numpy() == images.labels()
    return correct


def _drawn(histogram: Histogram) -> list[dict[str, float]]:
    """The histogram in fewer bins: upper edge and count of each in use."""
    counts, width, _ = histogram.numpy()
    merged = counts[0].reshape(DRAWN_BINS, -1).sum(1)
    edge = width[0] * histogram.bins / DRAWN_BINS
    top = int(np.flatnonzero(merged)[-1]) + 1
    return [{"upper": edge * (j + 1), "count": int(merged[j])} for j in range(top)]


def _quantize(cell: Cell, unit: Unit, settings: Mapping[str, Any], context: Context) -> Outcome:
    known = pretrained.get(cell.network)
    images = Images(known, settings["batch"], context.device, context.data_root)
    seen = load(context.inputs[float_unit(cell.network)] / TARGET.artefact, context.device)
    histograms = {layer: Histogram.of(state, known.signed(layer)) for layer, state in seen["histograms"].items()}
    network = pretrained.load(cell.network, context.data_root).to(context.device)
    quantized, ranges = quantize(network, histograms, cell, settings, context.backend)
    test, noise = settings["evaluation_images"], settings["noise_images"]
    first, total = unit.seed * test, test + noise
    with post_training.quantized_inputs(quantized, ranges, context.backend):
        evaluation = outputs(quantized, images.cifar10("test", first, test))
        context.progress(test, total, "evaluated")
        correct = _correct(quantized, evaluation, images, first)
        powers = post_training.layer_noise(quantized, network, images.cifar10("test", first, noise))
    exact = seen["evaluation"].cpu()
    correct["agreement"] = agreement(evaluation, exact, known)
    values = {column: top1(hits) for column, hits in correct.items()}
    values["snr"] = post_training.decibel(post_training.power(exact), post_training.power(exact - evaluation))
    values |= {f"snr.{layer}": post_training.decibel(*pair) for layer, pair in powers.items()}
    if cell.network == DRAWN[0]:
        values |= _threshold(histograms[DRAWN[1]], ranges[DRAWN[1]])
    values = {column: round(value, DIGITS) for column, value in values.items()}
    return Outcome(values, values, correct, [], images=total)


def quantize(
    network: nn.Module,
    histograms: Mapping[str, Histogram],
    cell: Cell,
    settings: Mapping[str, Any],
    backend: str | None = None,
) -> tuple[nn.Module, dict[str, Range]]:
    """A copy of the network with quantized weights, and the ranges of its inputs."""
    options = {"percent": settings["percent"]} if cell.calibrator == "percentile" else {}
    weights = cell.calibrator if settings["weights"] == "same" else settings["weights"]
    quantized = copy.deepcopy(network)
    found = post_training.weight_ranges(network, weights, cell.bits, cell.granularity == "channel")
    post_training.quantize_weights(quantized, found, backend)
    return quantized, post_training.activation_ranges(histograms, cell.calibrator, cell.bits, **options)


def agreement(outputs: Tensor, exact: Tensor, known: Pretrained) -> np.ndarray:
    """Whether each image gets the float network's class or, where there is no classifier, its nearest neighbour."""
    if known.classes:
        return outputs.argmax(1).numpy() == exact.argmax(1).numpy()
    return neighbours(outputs) == neighbours(exact)


def _threshold(histogram: Histogram, found: Range) -> dict[str, float]:
    """Where the drawn range ends, its step, the share that it clips and the signal-to-noise ratio that it leaves.

    From the histogram, whose bins stand for their centres.
    """
    counts, width, _ = histogram.numpy()
    x = (np.arange(histogram.bins) + 0.5) * width[0]
    rounded = np.rint(np.minimum(x, found.upper) / found.step) * found.step
    clipped = 100 * float(counts[0][x > found.upper].sum() / counts[0].sum())
    ratio = post_training.decibel(float(counts[0] @ x**2), float(counts[0] @ (x - rounded) ** 2))
    return {"drawn.upper": found.upper, "drawn.step": found.step, "drawn.clipped": clipped, "drawn.snr": ratio}
