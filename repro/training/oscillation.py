"""Oscillating weights: those whose quantized value keeps going back and forth between two levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import backends
from repro.quantizers.static import StaticQuantizer

MOMENTUM = 0.01
THRESHOLD = 0.005
"""Frequency above which a weight oscillates; both numbers are those of Nagel et al."""

Quantized = tuple[Tensor, StaticQuantizer]
"""A parameter and its quantizer."""


class Oscillations(nn.Module):
    """Frequency of oscillation of every weight, an exponential moving average over steps.

        o = 1 where the code changed, and against the direction in which it changed last, else 0
        f <- f + m (o - f),    m = .01

    As a module of the network in training it is part of the network's state, and so of its checkpoints.

    Args:
        weights: what is watched; their ranges must be set before the first `update`.

    Source: Nagel, Fournarakis, Bondarenko, Blankevoort 2022, Overcoming Oscillations in QAT, section 3.

    >>> quantizer = StaticQuantizer(2, signed=True, range_of=torch.amax)
    >>> quantizer.step, quantizer.lower, quantizer.upper = torch.tensor(1.0), torch.tensor(-1.0), torch.tensor(1.0)
    >>> weight = torch.zeros(2)
    >>> watched = Oscillations([(weight, quantizer)])
    >>> for value in (0.0, 1.0, 0.0, 1.0):  # the first weight's code goes up, down and up again
    ...     weight[0] = value
    ...     watched.update()
    >>> watched.frequency, watched.rate()
    (tensor([0.0199, 0.0000]), 50.0)
    """

    codes: Tensor
    direction: Tensor
    frequency: Tensor

    def __init__(self, weights: Sequence[Quantized]) -> None:
        super().__init__()
        self._weights = tuple(weights)  # in a tuple they are not counted twice among the network's modules
        size = sum(weight.numel() for weight, _ in self._weights)
        self.register_buffer("codes", torch.full((size,), NOT_YET, dtype=torch.int8))
        self.register_buffer("direction", torch.zeros(size, dtype=torch.int8))
        self.register_buffer("frequency", torch.zeros(size))

    @torch.no_grad()
    def update(self) -> None:
        """Look at the codes of the present step; the first call only remembers them."""
        codes = torch.cat([_codes(*pair).flatten() for pair in self._weights]).to(torch.int8)
        change = torch.where(self.codes == NOT_YET, 0, (codes - self.codes).sign())
        self.frequency.lerp_(((change != 0) & (change == -self.direction)).float(), MOMENTUM)
        self.direction.copy_(torch.where(change != 0, change, self.direction))
        self.codes.copy_(codes)

    def rate(self) -> float:
        """Weights that oscillate, in percent."""
        return 100.0 * float((self.frequency > THRESHOLD).double().mean())


NOT_YET = -128
"""Stands for the code of a weight that was not looked at yet; codes here have at most 7 bits."""


@torch.no_grad()
def mean_rounding_error(weights: Sequence[Quantized]) -> float:
    """Mean of |e| = |v - rint(v)|, v = w / step, over the weights inside their ranges, in steps: 0 to .5.

    >>> quantizer = StaticQuantizer(2, signed=True, range_of=torch.amax)
    >>> quantizer.step, quantizer.lower, quantizer.upper = torch.tensor(1.0), torch.tensor(-1.0), torch.tensor(1.0)
    >>> mean_rounding_error([(torch.tensor([0.25, -0.75, 7.0]), quantizer)])
    0.25
    """
    total, count = 0.0, 0
    for weight, quantizer in weights:
        inside = (quantizer.lower <= weight) & (weight <= quantizer.upper)
        v = weight[inside].double() / quantizer.step.double()
        total += float((v - v.round()).abs().sum())
        count += int(inside.sum())
    return total / count if count else 0.0


def _codes(weight: Tensor, quantizer: StaticQuantizer) -> Tensor:
    backend = backends.get(None, weight.device)
    return backend.codes(weight.detach(), quantizer.step, quantizer.lower, quantizer.upper)
