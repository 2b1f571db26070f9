"""One training step that serves several bit-widths: forward and backward at each, one update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from repro.adaptive.methods import Recipe
from repro.adaptive.swapping import draw, student_probabilities, swapped
from repro.adaptive.teachers import choose, weight_distances
from repro.networks.quantize import set_bits
from repro.networks.switchable import TransitionalBatchNorm2d
from repro.quantizers.dorefa import fixed_weights
from repro.training.distillation import soft_cross_entropy
from repro.training.streams import stream


@dataclass(frozen=True)
class JointStep:
    """Forward and backward at each bit-width, the highest first; gradients accumulate.

        L = sum over b of L_b,    L_b = CE(z_b, y) + w T^2 CE(softmax(z_t / T), softmax(z_b / T))

    z_t are the detached logits of b's teacher t, w is `soft_weight`. The second term needs a teacher and `soft_target`,
    the first is left out for a taught bit-width without `hard_target`. With `matched_loss` L_b is divided by the sum of
    its weights.

    Where blocks are swapped, what a bit-width teaches the lower ones is the output of its own pass, in which blocks of
    its teacher stood: a pass without them would cost as much again. Paper B does not say which it is.

    Attributes:
        network: a quantized network with `swappable()`.
        widths: bit-widths, the highest first.
        recipe: teacher, targets and swapping, as the method has them.
        settings: `lambda_start`, `lambda_end`, `entropy`, `distance`, `batch`, `soft_weight`, `matched_loss`,
            `temperature`, `swap_start`, `swap_end`, `swap_by_depth`, `swap_trains_teacher`.
        steps: number of steps of the whole training, for the schedules.
        seed: of the draws, whose streams are keyed by bit-width and step.
    """

    network: nn.Module
    widths: Sequence[int]
    recipe: Recipe
    settings: Mapping[str, Any]
    steps: int
    seed: int

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> float:
        """Accumulate the gradients of one batch; gives the loss, summed over bit-widths."""
        progress, rule = step / self.steps, self.recipe.teacher
        logits: dict[int, Tensor] = {}
        total = 0.0
        first, last = self.settings["lambda_start"], self.settings["lambda_end"]
        nearness = first + (last - first) * progress
        if self.settings["entropy"] == "sum":
            nearness /= self.settings["batch"]
        with fixed_weights(self.network):
            distances = {}
            if rule in ("nearest", "selected"):
                distances = weight_distances(self.network, self.widths, self.settings["distance"])
            for bits in self.widths:
                chosen = None
                if logits and rule:
                    generator = stream(self.seed, f"teacher of {bits}", step)
                    chosen = choose(rule, bits, logits, distances, nearness, generator)
                output = self._forward(images, bits, chosen, progress, step)
                taught = None if chosen is None or not self.recipe.soft_target else logits[chosen]
                loss = self._loss(output, labels, taught)
                loss.backward()
                logits[bits] = output.detach()
                total += loss.item()
        return total

    def _forward(self, images: Tensor, bits: int, teacher: int | None, progress: float, step: int) -> Tensor:
        set_bits(self.network, bits)
        if teacher is None or not self.recipe.swapped:
            return self.network(images)
        blocks = self.network.swappable()  # type: ignore[operator]
        start, end = self.settings["swap_start"], self.settings["swap_end"]
        probabilities = student_probabilities(progress, len(blocks), start, self.settings["swap_by_depth"], end)
        which = draw(probabilities, stream(self.seed, f"swap at {bits}", step))
        with swapped(blocks, which, bits, teacher, trains_teacher=self.settings["swap_trains_teacher"]):
            return self.network(images)

    def _loss(self, output: Tensor, labels: Tensor, target: Tensor | None) -> Tensor:
        hard = F.cross_entropy(output, labels)
        if target is None:
            return hard
        weight, soft = self.settings["soft_weight"], soft_cross_entropy(output, target, self.settings["temperature"])
        total = weight * soft + (hard if self.recipe.hard_target else 0.0)
        return total / (weight + self.recipe.hard_target) if self.settings["matched_loss"] else total


@dataclass(frozen=True)
class BitMixerStep:
    """Bit-Mixer: as many passes as there are bit-widths, each at random bit-widths, cross-entropy alone.

    In the first part of training (`mixer_uniform` of it) a pass draws one bit-width for the whole network, then one for
    each layer. Source: Bulat and Tzimiropoulos 2021, of which the abstract alone was read: it speaks of three stages.
    Here the FP32 start counts as one, and the third begins at once. The number of passes matches the other methods'.
    """

    network: nn.Module
    widths: Sequence[int]
    settings: Mapping[str, Any]
    steps: int
    seed: int

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> float:
        """Accumulate the gradients of one batch; gives the loss, summed over passes."""
        generator = stream(self.seed, "bits", step)
        total = 0.0
        with fixed_weights(self.network):
            for _ in self.widths:
                if step / self.steps < self.settings["mixer_uniform"]:
                    set_bits(self.network, int(generator.choice(self.widths)))
                else:
                    layers = len(self.network.layers())  # type: ignore[operator]
                    set_bits_by_layer(self.network, generator.choice(self.widths, layers).tolist())
                loss = F.cross_entropy(self.network(images), labels)
                loss.backward()
                total += loss.item()
        return total


def set_bits_by_layer(network: nn.Module, bits: Sequence[int]) -> None:
    """Give each of `network.layers()` a bit-width of its own; a transitional batch norm is told that before.

    The first layer counts as its own predecessor.
    """
    layers: list[list[nn.Module]] = network.layers()  # type: ignore[operator]
    for layer, before, own in zip(layers, [bits[0], *bits], bits, strict=False):
        for module in layer:
            set_bits(module, own)
            for norm in module.modules():
                if isinstance(norm, TransitionalBatchNorm2d):
                    norm.previous = before
