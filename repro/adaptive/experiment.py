"""One unit of Tables 1-4 really run: a network started, trained or calibrated, and measured at its bit-widths."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from repro.adaptive.joint import BitMixerStep, JointStep
from repro.adaptive.methods import BITS, FLOAT, FLOAT_BITS, Recipe, unit_of
from repro.adaptive.problems import Problem
from repro.adaptive.settings import ARTEFACT, BEST_EPOCH, with_defaults
from repro.networks.depthwise import quicken
from repro.networks.quantize import AtEightBits, LayerRule, QuantizedConv2d, QuantizedLinear, quantize, set_bits
from repro.networks.switchable import SwitchableBatchNorm2d, TransitionalBatchNorm2d
from repro.quantizers import PACT, SwitchablePACT, schemes
from repro.targets import Context, Outcome, Unit
from repro.training import distributed
from repro.training.batches import AnyBatches
from repro.training.distillation import training_step
from repro.training.evaluate import calibrate_batch_norm, correct, top1
from repro.training.loop import Evaluate, History, Step, Training, load, save
from repro.training.streams import torch_seeded

CHECKPOINT = "checkpoint.pt"
LOWEST = min(BITS)


def run(
    unit: Unit,
    context: Context,
    problem: Problem,
    recipe: Recipe | None = None,
    step_of: Callable[[nn.Module, int], Step] | None = None,
) -> Outcome:
    """Run `unit` in `context.folder`, resuming what a killed run left there, and leave the network as its artefact.

    `recipe` is that of a unit at all bit-widths which is no row of the table of methods; `step_of(network, steps in
    all)` is the step that a quantized network is trained with in place of its recipe's.
    """
    # Defaults stand in for settings that this unit does not depend on.
    settings: dict[str, Any] = with_defaults(**unit.settings)
    data = _Data(problem, settings, context)
    if unit.name == FLOAT:
        network: nn.Module = float_network(problem, settings, unit.seed).to(context.device)
        return _finish(network, _train_float(network, data, unit, context), data, unit, context)
    bits: Sequence[int] = BITS
    if recipe is None:
        method, bits = unit_of(unit.name)
        recipe = method.recipe
    network = _started(recipe, context.inputs[recipe.start] / ARTEFACT, data)
    if recipe.trained:
        history = _train(network, recipe, bits, data, unit, context, step_of)
        return _finish(network, history, data, unit, context, passes=len(bits))
    return _measure(network, recipe, data, unit.seed, context)


class _Data:
    """Training and test images of a unit, as its settings say."""

    def __init__(self, problem: Problem, settings: Mapping[str, Any], context: Context) -> None:
        distributed.check_batch(settings["batch"])
        self.train, self.test = problem.data.open(settings, context)
        self.problem, self.settings = problem, settings

    def calibration(self, seed: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """Batches that batch norms are calibrated on: those that training begins with, or plain training images."""
        if self.settings["bn_augmented"]:
            return islice(self.train.training(seed, epoch=0), self.settings["bn_images"] // self.train.batch)
        return self.train.plain(self.settings["bn_images"])


def float_network(problem: Problem, settings: Mapping[str, Any], seed: int) -> nn.Module:
    """The float network of the settings, initialised by the seed, channels-last and quickened."""
    with torch_seeded(seed, "initialisation"):
        network = problem.network.build(settings, problem.classes(settings))
    return quicken(network).to(memory_format=torch.channels_last)


def quantized(network: nn.Module, recipe: Recipe, settings: Mapping[str, Any]) -> nn.Module:
    """Turn a float network, in place, into a quantized one with the clip levels and batch norms of a recipe."""
    per_bit = recipe.clip == "per_bit"
    if recipe.open_clip and settings["clip"] != "usual":
        per_bit = settings["clip"] == "per_bit"

    def activation(signed: bool = False) -> nn.Module:
        alpha = settings["alpha_start"]
        return SwitchablePACT(BITS, alpha, signed=signed) if per_bit else PACT(None, alpha, signed=signed)

    def norm(float_norm: nn.BatchNorm2d) -> nn.Module:
        match recipe.batch_norm:
            case "per_bit":
                return SwitchableBatchNorm2d(float_norm, BITS)
            case "transitional":
                return TransitionalBatchNorm2d(float_norm, BITS)
            case _:
                return float_norm

    weight = partial(schemes.weight, settings["weights"], settings["realign_in_graph"])
    like: Any = network
    if settings["ends"] == "8_bit":
        for name in like.ends:
            layer = network.get_submodule(name)
            if isinstance(layer, nn.Conv2d):
                end: nn.Module = QuantizedConv2d(layer, AtEightBits(weight()))
            else:  # behind it is no batch norm to absorb a change of scale
                scaled = weight() if settings["weights"].endswith("_restored") else schemes.RestoredScale(weight())
                end = QuantizedLinear(cast(nn.Linear, layer), AtEightBits(scaled))
            network.set_submodule(name, end)
    rule = LayerRule(weight, activation, like.full_precision, norm, partial(activation, signed=True))
    return quantize(network, rule)


def _started(recipe: Recipe, artefact: Path, data: _Data) -> nn.Module:
    """The quantized network of a recipe, as it starts."""
    settings, device = data.settings, data.train.device
    network = float_network(data.problem, settings, seed=0)
    if recipe.start == FLOAT:
        network.load_state_dict(load(artefact))
        network = quantized(network, recipe, settings).to(device)
        if recipe.clip == "percentile" and settings["alpha_percentile"] is not None:
            set_alpha_at_percentile(network, data.train, settings["alpha_percentile"], settings["alpha_images"])
        return network
    network = quantized(network, unit_of(recipe.start)[0].recipe, settings).to(device)
    network.load_state_dict(load(artefact))
    return network


@torch.inference_mode()
def set_alpha_at_percentile(network: nn.Module, batches: AnyBatches, percentile: float, images: int) -> None:
    """Set each clip level to a percentile of its float activation's magnitude, the mean over batches of first images.

    The percentile of N values is the ceil(N percentile / 100)-th smallest, zeros included.
    """
    levels: dict[PACT, list[torch.Tensor]] = {module: [] for module in network.modules() if isinstance(module, PACT)}

    def observe(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        assert isinstance(module, PACT)
        rank = math.ceil(output.numel() * percentile / 100)
        levels[module].append(output.abs().flatten().kthvalue(rank).values)

    handles = [module.register_forward_hook(observe) for module in levels]
    network.eval()
    set_bits(network, None)
    for batch, _ in batches.whole().plain(images):
        network(batch)
    for handle in handles:
        handle.remove()
    for module, values in levels.items():
        module.alpha.copy_(torch.stack(values).mean())
        module.keep_alpha_positive()


def _train_float(network: nn.Module, data: _Data, unit: Unit, context: Context) -> History:
    settings = data.settings
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=settings["fp32_lr"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )
    training = _training(network, optimizer, settings["fp32_epochs"], data, unit, context)

    def evaluate() -> dict[str, np.ndarray]:
        return {str(FLOAT_BITS): correct(network, data.test)}

    return training.run(training_step(network), _as_often(evaluate, training, settings), context.progress)


def _train(
    network: nn.Module,
    recipe: Recipe,
    widths: Sequence[int],
    data: _Data,
    unit: Unit,
    context: Context,
    step_of: Callable[[nn.Module, int], Step] | None,
) -> History:
    """Train a quantized network at its bit-widths, and evaluate it at each after every epoch."""
    settings = data.settings
    training = _training(
        network, quantized_optimizer(network, settings, widths), settings["epochs"], data, unit, context
    )
    step: Step
    set_bits(network, widths[0])
    if step_of:
        step = step_of(network, training.steps)
    elif recipe.random_bits:
        step = BitMixerStep(network, widths, settings, training.steps, unit.seed)
    else:
        step = JointStep(network, widths, recipe, settings, training.steps, unit.seed)

    def evaluate() -> dict[str, np.ndarray]:
        return {str(bits): _correct_at(network, bits, data) for bits in widths}

    return training.run(step, _as_often(evaluate, training, settings), context.progress)


def _as_often(evaluate: Evaluate, training: Training, settings: Mapping[str, Any]) -> Evaluate:
    """`evaluate` after every epoch, or after the last one alone."""

    def at_the_end() -> dict[str, np.ndarray]:
        return evaluate() if len(training.history.curve) + 1 == training.epochs else {}

    return at_the_end if settings["test_once"] else evaluate


def _training(
    network: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, data: _Data, unit: Unit, context: Context
) -> Training:
    checkpoint = context.folder / CHECKPOINT
    return Training(
        network,
        optimizer,
        data.train,
        seed=unit.seed,
        epochs=epochs,
        checkpoint=checkpoint,
        keep_best=unit.scale in BEST_EPOCH,
        schedule=data.settings["schedule"],
    )


def quantized_optimizer(
    network: nn.Module, settings: Mapping[str, Any], widths: Sequence[int]
) -> torch.optim.Optimizer:
    """SGD for a network whose gradients are summed over `widths`, n of them.

    Weights learn at `weight_lr / n` where they are quantized and at `lr / n` elsewhere, batch norms at `lr`, clip
    levels at `alpha_lr` and with their own weight decay; those that serve the lowest bit-width alone, at `alpha_lr_low`
    and with `alpha_weight_decay_low`, if given. After each update clip levels are held at 1e-3 or above.
    """
    modules = list(network.modules())
    levels = [module for module in modules if isinstance(module, PACT)]
    own = [cast(PACT, module.levels[str(LOWEST)]) for module in modules if isinstance(module, SwitchablePACT)]
    low = levels if tuple(widths) == (LOWEST,) else own
    kinds: dict[torch.Tensor, str] = {module.alpha: "alpha" for module in levels}
    kinds |= {level.alpha: "alpha_low" for level in low}
    kinds |= {module.weight: "quantized" for module in modules if isinstance(module, QuantizedConv2d | QuantizedLinear)}
    kinds |= {p: "norm" for module in modules if isinstance(module, nn.BatchNorm2d) for p in module.parameters()}
    rates = {
        "float": settings["lr"] / len(widths),
        "quantized": settings["weight_lr"] / len(widths),
        "norm": settings["lr"],
        "alpha": settings["alpha_lr"],
        "alpha_low": _either(settings["alpha_lr_low"], settings["alpha_lr"]),
    }
    decay = settings["alpha_weight_decay"]
    decays = {"alpha": decay, "alpha_low": _either(settings["alpha_weight_decay_low"], decay)}
    groups = [
        {
            "params": [parameter for parameter in network.parameters() if kinds.get(parameter, "float") == kind],
            "lr": rate,
            "weight_decay": decays.get(kind, settings["weight_decay"]),
        }
        for kind, rate in rates.items()
    ]
    optimizer = torch.optim.SGD(groups, momentum=settings["momentum"])

    def keep_alphas_positive(*_: object) -> None:
        for module in levels:
            module.keep_alpha_positive()

    optimizer.register_step_post_hook(keep_alphas_positive)
    return optimizer


def _either(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _correct_at(network: nn.Module, bits: int, data: _Data) -> np.ndarray:
    set_bits(network, bits)
    return correct(network, data.test)


def _finish(
    network: nn.Module, history: History, data: _Data, unit: Unit, context: Context, passes: int = 1
) -> Outcome:
    """The network of the epoch that is reported becomes the artefact, and its hits are kept."""
    save(network.state_dict(), context.folder / ARTEFACT)
    return Outcome(
        values={column: top1(hits) for column, hits in history.last.items()},
        best=history.best,
        correct=history.best_hits if unit.scale in BEST_EPOCH else history.last,
        curve=history.curve,
        images=passes * len(history.curve) * len(data.train) * data.train.batch,
    )


def _measure(network: nn.Module, recipe: Recipe, data: _Data, seed: int, context: Context) -> Outcome:
    """Evaluate an untrained method at every bit-width, with statistics as they are or calibrated for each."""
    hits: dict[str, np.ndarray] = {}
    for done, bits in enumerate(BITS):
        context.progress(done, len(BITS), f"{bits} bits")
        candidate = copy.deepcopy(network)
        set_bits(candidate, bits)
        if recipe.batch_norm == "calibrated":
            calibrate_batch_norm(candidate, data.calibration(seed))
        hits[str(bits)] = _correct_at(candidate, bits, data)
    values = {column: top1(hit) for column, hit in hits.items()}
    return Outcome(values=values, best=values, correct=hits, curve=[], images=len(BITS) * len(hits[str(BITS[0])]))
