"""Paper A's homogeneous quantizer: symmetric, uniform, per tensor; its range is set once and then frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from backends import Scaler
from backends.autograd import fake_quantize

SIGMAS = 3.0
PERCENT = 99.9
ALL_ZERO = 1.0
"""Range of a tensor of zeros; paper A's rule `q_max == 0 -> 1`."""
STE = Scaler("ste")


def three_sigma(x: Tensor) -> Tensor:
    """max(|mu - 3 sigma|, |mu + 3 sigma|) over all elements, 0-d; sigma with divisor N. Paper A's range of weights.

    >>> three_sigma(torch.tensor([0.0, 2.0]))
    tensor(4.)
    """
    sigma, mean = torch.std_mean(x, correction=0)
    return mean.abs() + SIGMAS * sigma


def percentile(x: Tensor) -> Tensor:
    """The 99.9th percentile of |x| over all elements, 0-d: the ceil(.999 N)-th smallest.

    Paper A's range of activations.

    >>> percentile(torch.arange(-2000.0, 0.0))
    tensor(1998.)
    """
    magnitudes = x.abs().flatten()
    return magnitudes.kthvalue(math.ceil(magnitudes.numel() * PERCENT / 100)).values


class StaticQuantizer(nn.Module):
    """`y = rint(clip(x, lower, upper) / step) * step` with a range that is set once from data.

        step = q_max / q,  upper = q_max,  lower = -q_max (signed) or 0
        q = 2^(bits-1) - 1 (signed) or 2^bits - 1, the largest code

    `q_max = range_of(x)` of the first tensor that passes within `setting_ranges`; 0 counts as 1. Before that a forward
    pass raises `ValueError` (its step is NaN). Only the gradient of x is used.

    Args:
        bits: 2 to 24 with a sign, 1 to 24 without.
        signed: whether x has a sign.
        range_of: `three_sigma`, `percentile`, or any other function of a tensor to a 0-d one.
        scaler: multiplier of the gradient that passes through rounding.
        noise: `noise(x)` gives the noise that one of the two noise controls needs, a tensor like x.

    Shapes: any in, the same out. Raises `ValueError` for bits outside their range. Source: paper A, "Homogeneous
    quantizer"; contract S4.

    >>> quantizer = StaticQuantizer(2, signed=True, range_of=lambda x: x.abs().amax())
    >>> with setting_ranges(quantizer):
    ...     quantizer(torch.tensor([-3.0, 0.5, 2.0]))
    tensor([-3.,  0.,  3.])
    >>> quantizer(torch.tensor([9.0]))
    tensor([3.])
    """

    step: Tensor
    lower: Tensor
    upper: Tensor

    def __init__(
        self,
        bits: int,
        signed: bool,
        range_of: Callable[[Tensor], Tensor],
        scaler: Scaler = STE,
        noise: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not 1 + signed <= bits <= 24:
            raise ValueError(f"bits={bits}: give {1 + signed} to 24 {'with' if signed else 'without'} a sign")
        self.bits, self.signed, self.range_of, self.scaler, self.noise = bits, signed, range_of, scaler, noise
        self.sets_range = False
        for name in ("step", "lower", "upper"):
            self.register_buffer(name, torch.tensor(math.nan))

    @property
    def q(self) -> int:
        """Largest code."""
        return 2 ** (self.bits - self.signed) - 1

    def forward(self, x: Tensor) -> Tensor:
        if self.sets_range:
            self._set_range(x.detach())
        scaler = self.scaler if torch.is_grad_enabled() else STE
        noise = self.noise(x) if scaler.needs_noise and self.noise else None
        return fake_quantize(x, self.step, self.lower, self.upper, scaler=scaler, noise=noise)

    def _set_range(self, x: Tensor) -> None:
        q_max = self.range_of(x).float()
        q_max = torch.where(q_max > 0, q_max, ALL_ZERO)
        self.upper.copy_(q_max)
        self.lower.copy_(-q_max if self.signed else torch.zeros_like(q_max))
        self.step.copy_(q_max / self.q)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}, scaler={self.scaler.name}"


@contextmanager
def setting_ranges(network: nn.Module) -> Iterator[None]:
    """Within: every `StaticQuantizer` of `network` takes its range anew from what passes through it."""
    quantizers = [module for module in network.modules() if isinstance(module, StaticQuantizer)]
    for quantizer in quantizers:
        quantizer.sets_range = True
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.sets_range = False
