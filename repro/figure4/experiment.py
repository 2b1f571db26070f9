"""One unit of Figure 4 really run: an FP32 start, or the same network trained quantized from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from numba import njit
from scipy.special import ndtri
from timm.optim import RMSpropTF
from torch import Tensor, nn
from torch.nn import functional as F

from backends import Scaler
from repro.datasets import cifar10, imagenet
from repro.figure4 import TARGET, Network, network_of, scaler
from repro.networks import pretrained
from repro.networks.depthwise import quicken
from repro.networks.homogeneous import INPUT, Homogeneous, quantize, quantized_layers
from repro.networks.lite import lite_small
from repro.quantizers.static import StaticQuantizer, setting_ranges
from repro.targets import Context, Outcome, Unit
from repro.training.batches import CIFAR10_MEAN, CIFAR10_STD, AnyBatches, Batches
from repro.training.distributed import check_batch, part
from repro.training.evaluate import calibrate_batch_norm, correct, top1
from repro.training.loader import LoadedBatches
from repro.training.loop import Training, load, save
from repro.training.oscillation import Oscillations, mean_rounding_error
from repro.training.streams import stream, torch_seeded

CHECKPOINT = "checkpoint.pt"
TEST_BATCH = 500
FAMILY = "efficientnet_lite0"
"""Pretrained network whose signs of activations hold for both: their layers have the same names."""
TOP1 = "top1"
Channels = tuple[float, ...]
DIGITS = 6


def run(unit: Unit, context: Context) -> Outcome:
    """Run `unit` in `context.folder`, resuming what a killed run left there."""
    settings: dict[str, Any] = dict(unit.settings)
    network = network_of(unit)
    if unit.name == network.start:
        return _start(network, unit, settings, context)
    return _quantized(network, unit, settings, context)


class _Data:
    """Training and test images as a unit's settings say, with the network's normalisation."""

    def __init__(self, network: Network, train_images: int, settings: Mapping[str, Any], context: Context) -> None:
        check_batch(settings["batch"])
        opened = _imagenet if settings["data"] == "imagenet" else _cifar10
        self.train, self.test = opened(train_images, settings, context, *_normalisation(network))


def _cifar10(
    train_images: int, settings: Mapping[str, Any], context: Context, mean: Channels, std: Channels
) -> tuple[AnyBatches, AnyBatches]:
    train, test = (cifar10.load(split, context.data_root) for split in cifar10.SPLITS)
    chosen = stream(0, "test images").permutation(len(test))[: settings["test_images"]]
    n, batch, tested = train_images, settings["batch"], min(TEST_BATCH, len(chosen))
    return (
        Batches(train.images[:n], train.labels[:n], batch, context.device, mean, std, part()),
        Batches(test.images[chosen], test.labels[chosen], tested, context.device, mean, std, part()),
    )


def _imagenet(
    train_images: int, settings: Mapping[str, Any], context: Context, mean: Channels, std: Channels
) -> tuple[AnyBatches, AnyBatches]:
    size, classes, batch = settings["size"], settings["classes"], settings["batch"]
    train, test = (imagenet.ImageNet(split, size, classes, context.data_root) for split in imagenet.SPLITS)
    return (
        LoadedBatches(train, batch, context.device, mean, std, train_images, part()),
        LoadedBatches(test, batch, context.device, mean, std, settings["test_images"], part()),
    )


def _normalisation(network: Network) -> tuple[Channels, Channels]:
    """Mean and standard deviation by colour, for pixels from 0 to 1: those that its pretrained weights know."""
    if network.pretrained is None:
        return CIFAR10_MEAN, CIFAR10_STD
    known = pretrained.get(network.pretrained)
    return tuple(v / 255 for v in known.mean), tuple(v / 255 for v in known.std)


def _start(network: Network, unit: Unit, settings: dict[str, Any], context: Context) -> Outcome:
    data = _Data(network, settings["fp32_images"], settings, context)
    net = _initialised(network, unit.seed, settings, context)
    training = _training(net, "fp32_", data, unit, settings, context)

    def step(images: Tensor, labels: Tensor, number: int) -> float:
        return _learn(net, images, labels, settings)

    history = training.run(step, lambda: _evaluated(training, net, data, "last"), context.progress)
    save(net.state_dict(), context.folder / TARGET.artefact)
    values = {TOP1: top1(history.last[TOP1])}
    return Outcome(values, values, history.last, history.curve, images=training.steps * settings["batch"])


def _quantized(network: Network, unit: Unit, settings: dict[str, Any], context: Context) -> Outcome:
    data = _Data(network, settings["train_images"], settings, context)
    net = _built(network, settings)
    net.load_state_dict(load(context.inputs[network.start] / TARGET.artefact))
    noise = Noise(unit.seed)
    quantize(net, _rule(settings, noise))
    weights = quantized_weights(net)
    oscillations = Oscillations(weights)
    net.add_module("oscillations", oscillations)  # so that checkpoints hold its state
    net.to(context.device)
    training = _training(net, "", data, unit, settings, context)

    def step(images: Tensor, labels: Tensor, number: int) -> float:
        noise.step = number
        if number == 0:  # of several processes each sets its ranges; after the step all have their mean
            with setting_ranges(net):
                return _learn(net, images, labels, settings)
        oscillations.update()
        return _learn(net, images, labels, settings)

    evaluate = partial(_evaluated, training, net, data, settings["evaluate"])
    history = training.run(step, evaluate, context.progress)
    hits = history.best_hits if training.keep_best else history.last
    values = {
        TOP1: top1(hits[TOP1]),
        "weight_error": mean_rounding_error(weights),
        "oscillation": oscillations.rate(),
    }
    calibrate_batch_norm(net, data.train.plain(settings["bn_images"]))
    values["top1_bn"] = top1(correct(net, data.test))
    rounded = {column: round(value, DIGITS) for column, value in values.items()}
    return Outcome(rounded, history.best, hits, history.curve, images=training.steps * settings["batch"])


def _rule(settings: Mapping[str, Any], noise: Noise) -> Homogeneous:
    return Homogeneous(
        settings["bits"],
        pretrained.get(FAMILY).signed,
        weights=scaler(settings["weights"], settings),
        activations=scaler(settings["activations"], settings),
        operands=settings["operands"],
        noise=noise,
    )


def quantized_weights(net: nn.Module) -> list[tuple[Tensor, StaticQuantizer]]:
    """The weight of every quantized layer with its quantizer."""
    return [(m.layer.weight, m.parameter_quantizers["weight"]) for m in quantized_layers(net).values()]  # type: ignore[misc]


_LEVELS = (np.arange(2**16) + 0.5) / 2**16
_QUANTILES = {"uniform_noise": (_LEVELS - 0.5).astype(np.float32), "gaussian_noise": ndtri(_LEVELS).astype(np.float32)}
"""U(-.5, .5) and N(0, 1) at 65,536 equal steps of probability: a third of the time of drawing them exactly."""


@njit(nogil=True, cache=True)
def _looked_up(table: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`table[places]`, in less than half of NumPy's time, which widens the places first."""
    found = np.empty(len(places), table.dtype)
    for i in range(len(places)):
        found[i] = table[places[i]]
    return found


class Noise:
    """What the noise controls multiply with, drawn by (seed, tensor, step): contract S4."""

    def __init__(self, seed: int, step: int = 0) -> None:
        self.seed, self.step = seed, step

    def __call__(self, name: str, scaler: Scaler, x: Tensor) -> Tensor:
        """U(-.5, .5) or N(0, 1), like x; drawn in the order in which x lies in memory.

        Of several processes that train together each draws its own for an input, whose rows are its images.
        """
        number, _ = part()
        own = f" of process {number}" if number and name.endswith(INPUT) else ""
        words = stream(self.seed, f"noise {name}{own}", self.step).bit_generator.random_raw(-(-x.numel() // 4))
        levels = words.astype("<u8", copy=False).view("<u2")[: x.numel()]
        drawn = torch.from_numpy(_looked_up(_QUANTILES[scaler.name], levels))
        return drawn.to(x.device).as_strided(x.shape, torch.empty_like(x).stride())


def _learn(net: nn.Module, images: Tensor, labels: Tensor, settings: Mapping[str, Any]) -> float:
    loss = F.cross_entropy(net(images), labels, label_smoothing=settings["label_smoothing"])
    loss.backward()
    return loss.item()


def _evaluated(training: Training, net: nn.Module, data: _Data, when: str) -> dict[str, np.ndarray]:
    """Correctness of the test images; before the last epoch nothing, where `when` is `last`."""
    if when == "last" and training.step < training.steps:
        return {}
    return {TOP1: correct(net, data.test)}


def _initialised(network: Network, seed: int, settings: Mapping[str, Any], context: Context) -> nn.Module:
    """The float network; what has no pretrained weights, at least the classifier, is initialised by the seed."""
    with torch_seeded(seed, "initialisation"):
        if network.pretrained is None:
            return _built(network, settings).to(context.device)
        net = pretrained.load(network.pretrained, context.data_root, fold=False).requires_grad_(True)
        if settings["classes"] != net.num_classes:
            net.reset_classifier(settings["classes"])  # type: ignore[operator]
        return _enlarging(net, settings["size"]).to(context.device)


def _built(network: Network, settings: Mapping[str, Any]) -> nn.Module:
    classes, size = settings["classes"], settings["size"]
    if network.pretrained is None:
        return _enlarging(lite_small(classes), size)
    return _enlarging(timm.create_model(pretrained.get(network.pretrained).timm, num_classes=classes), size)


def _enlarging(net: nn.Module, size: int) -> nn.Module:
    """The network, channels-last and quickened, seeing its images at `size` pixels (bilinear)."""

    def enlarge(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        (images,) = inputs
        return images if images.shape[-1] == size else F.interpolate(images, size, mode="bilinear")

    net.register_forward_pre_hook(enlarge)
    return quicken(net).to(memory_format=torch.channels_last)


OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "rmsprop": partial(RMSpropTF, alpha=0.9, eps=1e-3),
}
"""RMSprop is TensorFlow's, with epsilon inside the root: decay and epsilon are the paper's."""


def _training(
    net: nn.Module, kind: str, data: _Data, unit: Unit, settings: Mapping[str, Any], context: Context
) -> Training:
    """Cosine to 0 after the warm-up; batch norm's parameters do not decay. `kind` begins the names of its settings."""
    norms = {p for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    groups = [
        {"params": [p for p in net.parameters() if p not in norms], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in net.parameters() if p in norms], "weight_decay": 0.0},
    ]
    optimizer = OPTIMIZERS[settings["optimizer"]](groups, lr=settings[f"{kind}lr"], momentum=settings["momentum"])
    checkpoint = context.folder / CHECKPOINT
    epochs = settings[f"{kind}epochs"]
    return Training(
        net,
        optimizer,
        data.train,
        seed=unit.seed,
        epochs=epochs,
        checkpoint=checkpoint,
        warmup=settings["warmup"] * len(data.train),
        keep_best=settings.get("evaluate") == "best",
    )
