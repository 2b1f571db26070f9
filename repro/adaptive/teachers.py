"""Who teaches a bit-width: the rules for a soft target, and CoQuant's selection by confidence and nearness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.adaptive.methods import TeacherRule
from repro.networks.quantize import QuantizedConv2d, set_bits
from repro.training import distributed

Reduction = Literal["mean", "sum"]
Distances = Mapping[tuple[int, int], float]
"""Of the quantized weights at two bit-widths, by (teacher, student)."""


def entropy(logits: Tensor) -> Tensor:
    """Mean over the batch of the entropy of the prediction, in nats: (N, classes) logits to a scalar.

    >>> round(entropy(torch.zeros(3, 4)).item(), 4)  # log 4
    1.3863
    """
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(1).mean()


@torch.no_grad()
def weight_distances(
    network: nn.Module, widths: Sequence[int], within: Reduction = "mean"
) -> dict[tuple[int, int], float]:
    """`sum_l mean |W_i^l - W_b^l|` of the quantized weights for every pair i > b of bit-widths.

    By default the L1 distance is averaged within each layer, so that neither it nor lambda depends on a layer's size;
    else it is their sum. Leaves the network at the lowest bit-width.
    """
    layers = [module for module in network.modules() if isinstance(module, QuantizedConv2d)]
    weights = {}
    for bits in sorted(widths, reverse=True):
        set_bits(network, bits)
        weights[bits] = [layer.quantizer(layer.weight) for layer in layers]

    def distance(a: Tensor, b: Tensor) -> Tensor:
        apart = (a - b).abs()
        return apart.mean() if within == "mean" else apart.sum()

    return {
        (high, low): float(sum(distance(a, b) for a, b in zip(weights[high], weights[low], strict=True)))
        for high in widths
        for low in widths
        if high > low
    }


def select(student: int, logits: Mapping[int, Tensor], distances: Distances, strength: float) -> int:
    """CoQuant's teacher of a student: `argmin_i H(y_i) + lambda * distance(i, student)` over the higher bit-widths.

    `logits` holds the predictions of the higher bit-widths, `strength` is lambda. Source: paper B; H as the batch mean
    and the distance as a mean per layer are ours. H as the sum over N images is a lambda of 1/N.

    >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> near_is_6 = {(8, 4): 0.5, (6, 4): 0.1}
    >>> [select(4, {8: sure, 6: unsure}, near_is_6, strength) for strength in (0.0, 10.0)]
    [8, 6]
    """

    def cost(bits: int) -> float:
        uncertainty = distributed.mean(float(entropy(logits[bits])), logits[bits].device)  # all must choose alike
        return uncertainty + strength * distances[bits, student]

    return min(logits, key=cost)


def choose(
    rule: TeacherRule,
    student: int,
    logits: Mapping[int, Tensor],
    distances: Distances,
    strength: float,
    generator: np.random.Generator,
) -> int:
    """The bit-width that teaches `student` among those of `logits`, all higher, under a rule.

    `highest`, `next_higher`; `nearest` in weights; `random`, uniform; `selected`, as `select`.
    """
    match rule:
        case "highest":
            return max(logits)
        case "next_higher":
            return min(logits)
        case "nearest":
            return min(logits, key=lambda bits: distances[bits, student])
        case "random":
            return int(generator.choice(sorted(logits)))
        case "selected":
            return select(student, logits, distances, strength)
