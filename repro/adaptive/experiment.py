"""One unit of Tables 1-4 really run: a network started, trained or calibrated, and measured at its bit-widths."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from repro.adaptive.methods import BITS, FLOAT, METHODS, Method, Recipe
from repro.adaptive.settings import scale
from repro.datasets import cifar10
from repro.networks.quantize import LayerRule, QuantizedConv2d, quantize, set_bits
from repro.networks.resnet import ResNet18
from repro.quantizers import PACT, DoReFaWeight
from repro.targets import Context, Outcome, Unit
from repro.training.batches import Batches
from repro.training.distillation import training_step
from repro.training.evaluate import calibrate_batch_norm, correct, top1
from repro.training.loop import History, Step, Training, load, save
from repro.training.streams import torch_seeded

ARTEFACT = "network.pt"
CHECKPOINT = "checkpoint.pt"
FLOAT_BITS = 32
"""Column of the full-precision network."""
FULL_PRECISION = frozenset({"conv1", "fc", "blocks.7.act2"})
"""Stem and classifier stay in full precision, and so does the activation between the last block and the pool."""


def run(unit: Unit, context: Context, step_of: Callable[[nn.Module], Step] = training_step) -> Outcome:
    """Run `unit` in `context.folder`, resuming what a killed run left there, and leave the network as its artefact.

    `step_of(network)` is the step it is trained with, where it is trained: cross-entropy if not said otherwise.
    """
    settings: dict[str, Any] = scale(
        **unit.settings
    )  # defaults stand in for settings that this unit does not depend on
    data = _Data(settings, context)
    if unit.name == FLOAT:
        network: nn.Module = float_network(settings, unit.seed).to(context.device)
        history = _train(network, FLOAT_BITS, data, unit, context, _float_optimizer(network, settings), step_of)
        return _finish(network, history, data, context)
    method, bits = next((m, b) for m in METHODS.values() for name, b in m.units() if name == unit.name)
    assert method.recipe is not None
    network = quantized_network(settings).to(context.device)
    _start(network, method.recipe, context.inputs[method.recipe.start] / ARTEFACT, data)
    if method.recipe.trained:
        history = _train(network, bits[0], data, unit, context, _quantized_optimizer(network, settings), step_of)
        return _finish(network, history, data, context)
    return _measure(network, method, data, unit.seed, context)


class _Data:
    """Training and test images of a unit, as its settings say."""

    def __init__(self, settings: Mapping[str, Any], context: Context) -> None:
        train, test = (cifar10.load(split, context.data_root) for split in ("train", "test"))
        n, m, batch = settings["train_images"], settings["test_images"], settings["batch"]
        self.train = Batches(train.images[:n], train.labels[:n], batch, context.device)
        self.test = Batches(test.images[:m], test.labels[:m], 500, context.device)
        self.settings = settings

    def calibration(self, seed: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """Batches that batch norms are calibrated on: those that training begins with, or plain training images."""
        if self.settings["bn_augmented"]:
            return islice(self.train.training(seed, epoch=0), self.settings["bn_images"] // self.train.batch)
        return self.train.plain(self.settings["bn_images"])


def float_network(settings: Mapping[str, Any], seed: int) -> nn.Module:
    """The float network of the settings, initialised by the seed, channels-last."""
    with torch_seeded(seed, "initialisation"):
        network = ResNet18(settings["width"], settings["stem_stride"])
    return network.to(memory_format=torch.channels_last)


def quantized_network(settings: Mapping[str, Any]) -> nn.Module:
    """The same network with DoReFa weights and PACT activations; its parameters are yet to be loaded."""
    rule = LayerRule(
        weight=lambda: DoReFaWeight(realign_in_graph=settings["realign_in_graph"]),
        activation=lambda: PACT(alpha=settings["alpha_start"]),
        keep=FULL_PRECISION,
    )
    return quantize(float_network(settings, seed=0), rule)


def _start(network: nn.Module, recipe: Recipe, artefact: Path, data: _Data) -> None:
    """Load the network that a method starts from, and set the clip levels of one that has none."""
    state = load(artefact, data.train.device)
    missing = network.load_state_dict(state, strict=False)
    if missing.unexpected_keys or any(not key.endswith(".alpha") for key in missing.missing_keys):
        raise ValueError(f"{artefact} does not hold the network that this method starts from: {missing}")
    if recipe.clip == "percentile":
        set_alpha_at_percentile(network, data.train, data.settings["alpha_percentile"], data.settings["alpha_images"])


@torch.inference_mode()
def set_alpha_at_percentile(network: nn.Module, batches: Batches, percentile: float, images: int) -> None:
    """Set each clip level to a percentile of its float activation, the mean over batches of the first training images.

    The percentile of N values is the ceil(N percentile / 100)-th smallest, zeros included.
    """
    levels: dict[PACT, list[torch.Tensor]] = {module: [] for module in network.modules() if isinstance(module, PACT)}

    def observe(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        assert isinstance(module, PACT)
        rank = math.ceil(output.numel() * percentile / 100)
        levels[module].append(output.flatten().kthvalue(rank).values)

    handles = [module.register_forward_hook(observe) for module in levels]
    network.eval()
    set_bits(network, None)
    for batch, _ in batches.plain(images):
        network(batch)
    for handle in handles:
        handle.remove()
    for module, values in levels.items():
        module.alpha.copy_(torch.stack(values).mean())
        module.keep_alpha_positive()


def _float_optimizer(network: nn.Module, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        network.parameters(),
        lr=settings["fp32_lr"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )


def _quantized_optimizer(network: nn.Module, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """SGD with learning rates of their own for quantized weights and for clip levels, which stay positive."""
    levels = [module for module in network.modules() if isinstance(module, PACT)]
    own: dict[torch.Tensor, str] = {module.alpha: "alpha" for module in levels}
    own |= {module.weight: "weight" for module in network.modules() if isinstance(module, QuantizedConv2d)}
    groups = [
        {
            "params": [parameter for parameter in network.parameters() if own.get(parameter, "") == kind],
            "lr": settings[f"{kind}_lr" if kind else "lr"],
            "weight_decay": settings["alpha_weight_decay" if kind == "alpha" else "weight_decay"],
        }
        for kind in ("", "weight", "alpha")
    ]
    optimizer = torch.optim.SGD(groups, momentum=settings["momentum"])

    def keep_alphas_positive(*_: object) -> None:
        for module in levels:
            module.keep_alpha_positive()

    optimizer.register_step_post_hook(keep_alphas_positive)
    return optimizer


def _train(
    network: nn.Module,
    bits: int,
    data: _Data,
    unit: Unit,
    context: Context,
    optimizer: torch.optim.Optimizer,
    step_of: Callable[[nn.Module], Step],
) -> History:
    """Train at one bit-width."""
    set_bits(network, None if bits == FLOAT_BITS else bits)
    training = Training(
        network,
        optimizer,
        data.train,
        seed=unit.seed,
        epochs=data.settings["fp32_epochs" if unit.name == FLOAT else "epochs"],
        checkpoint=context.folder / CHECKPOINT,
    )
    return training.run(step_of(network), lambda: {str(bits): correct(network, data.test)}, context.progress)


def _finish(network: nn.Module, history: History, data: _Data, context: Context) -> Outcome:
    save(network.state_dict(), context.folder / ARTEFACT)
    return Outcome(
        values={column: top1(hits) for column, hits in history.last.items()},
        best=history.best,
        correct=history.last,
        curve=history.curve,
        images=len(history.curve) * len(data.train) * data.train.batch,
    )


def _measure(network: nn.Module, method: Method, data: _Data, seed: int, context: Context) -> Outcome:
    """Evaluate an untrained method at every bit-width, with statistics as they are or calibrated for each."""
    assert method.recipe is not None
    hits: dict[str, np.ndarray] = {}
    for done, bits in enumerate(BITS):
        context.progress(done, len(BITS), f"{bits} bits")
        candidate = copy.deepcopy(network)
        set_bits(candidate, bits)
        if method.recipe.batch_norm == "calibrated":
            calibrate_batch_norm(candidate, data.calibration(seed))
        hits[str(bits)] = correct(candidate, data.test)
    values = {column: top1(hit) for column, hit in hits.items()}
    return Outcome(values=values, best=values, correct=hits, curve=[], images=len(BITS) * len(data.test.images))
