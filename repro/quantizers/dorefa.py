"""DoReFa-style weights whose codes are nested: the code at fewer bits is a prefix of the 8-bit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from backends import Scaler
from backends.autograd import fake_quantize

STORED_BITS = 8
HIGHEST = 2**STORED_BITS - 1


class Stored(NamedTuple):
    """What all bit-widths of a weight share."""

    squashed: Tensor
    """tanh(w)."""
    divisor: Tensor
    """2 max|tanh w|, or 2 where all weights are 0, lest they become 0/0."""
    alive: Tensor
    """1, or 0 where all weights are 0."""
    codes: Tensor
    """h."""
    total: Tensor
    """Sum of h."""


class DoReFaWeight(nn.Module):
    """Quantized weights in [-1, 1] from float weights of any scale, straight-through in the backward pass.

    The scale is DoReFa's, its codes are nested; DoReFa's own rounding is `schemes.UnitWeight("nearest")`.

        t   = tanh(w) / (2 max|tanh w|) + 1/2
        h   = rint(255 t)                               the stored 8-bit code
        l   = floor(h / d) d,  d = 2^(8 - bits)         its prefix of `bits` bits
        w_q = 2 (l / 255) (mean(h) / mean(l)) - 1

    The scale of w is not restored (batch normalisation absorbs it). All-zero weights, or a prefix that is zero
    everywhere, give zeros. `bits = None` returns w.

    Args:
        bits: bit-width 1..8, or None for full precision; may be switched at any time.
        realign_in_graph: whether max|tanh w| and mean(h)/mean(l) are differentiated too (the paper does not say).
        scaler: multiplier of the gradient that passes through rounding.

    Shapes: any in, the same out. Source: Zhou et al. 2016, DoReFa-Net, eq. 9; the nesting is our reconstruction.

    >>> weight = torch.tensor([-1.0, -0.1, 0.1, 1.0])
    >>> [round(v, 3) for v in DoReFaWeight(bits=8)(weight).tolist()]
    [-1.0, -0.129, 0.129, 1.0]
    >>> [round(v, 3) for v in DoReFaWeight(bits=2)(weight).tolist()]
    [-1.0, -0.333, 0.333, 1.0]
    """

    def __init__(
        self,
        bits: int | None = None,
        realign_in_graph: bool = False,
        scaler: Scaler = Scaler("ste"),  # noqa: B008
    ) -> None:
        super().__init__()
        self.bits = bits
        self.realign_in_graph = realign_in_graph
        self.scaler = scaler
        self.kept: list[Stored] | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if self.bits is None:
            return weight
        if self.realign_in_graph or self.scaler.name != "ste":
            return self.in_graph(weight)
        return _StraightThrough.apply(weight, *self.stored(weight.detach()), self.codes_per_level)

    def in_graph(self, weight: Tensor) -> Tensor:
        """w_q by operations that autograd differentiates one by one."""
        squashed = weight.tanh()
        largest = squashed.abs().amax()
        if not self.realign_in_graph:
            largest = largest.detach()
        alive = largest.detach().sign()
        share = squashed / (2 * (largest + (1 - alive))) + 0.5
        codes = prefix = fake_quantize(share * HIGHEST, 1.0, 0.0, float(HIGHEST), scaler=self.scaler)
        if self.codes_per_level > 1:  # floor(h / d) d = rint((h - (d - 1)/2) / d) d, whose bounds mask no code
            offset = (self.codes_per_level - 1) / 2
            exact = codes.to(torch.promote_types(codes.dtype, torch.float32))
            prefix = fake_quantize(exact - offset, self.codes_per_level, -offset, HIGHEST - offset, scaler=self.scaler)
            prefix = prefix.to(codes.dtype)
        total = prefix.sum()
        ratio = codes.sum() / total.clamp(min=0.5)  # a sum of codes is 0, or 1 and more
        if not self.realign_in_graph:
            ratio = ratio.detach()
        alive = alive * total.detach().sign()
        return prefix * (alive * ratio * (2 / HIGHEST)) - alive

    def stored(self, weight: Tensor) -> Stored:
        """What all bit-widths share; within `fixed_weights` worked out for the first of them alone."""
        if self.kept is None:
            return _stored(weight)
        if not self.kept:
            self.kept.append(_stored(weight))
        return self.kept[0]

    @property
    def codes_per_level(self) -> float:
        """d."""
        assert self.bits is not None
        return float(2 ** (STORED_BITS - self.bits))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def _stored(weight: Tensor) -> Stored:
    """What all bit-widths of a weight share, in place where it can be: fresh memory costs more than arithmetic."""
    squashed = weight.tanh()
    largest = torch.maximum(squashed.amax(), -squashed.amin())
    alive = largest.sign()
    divisor = 2 * (largest + (1 - alive))
    codes = (squashed / divisor).add_(0.5).mul_(HIGHEST).round_()  # half to even, as the contract has it (Q2)
    return Stored(squashed, divisor, alive, codes, codes.sum())


class _StraightThrough(torch.autograd.Function):
    """`in_graph` where max|tanh w| and mean(h)/mean(l) are constants, in fewer passes: same bits but signs of zeros.

    dw = g (dw_q/dl) 255 / (2 max|tanh w|) (1 - tanh(w)^2)
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        squashed: Tensor,
        divisor: Tensor,
        alive: Tensor,
        codes: Tensor,
        total: Tensor,
        d: float,
    ) -> Tensor:
        quantized = codes.div(d, rounding_mode="trunc")  # l / d; the factor d is exact, and goes into the slope
        total_of_prefix = d * quantized.sum()
        alive = alive * total_of_prefix.sign()
        slope = alive * (total / total_of_prefix.clamp(min=0.5)) * (2 / HIGHEST)
        ctx.save_for_backward(squashed, divisor, slope)
        return quantized.mul_(d * slope).sub_(alive)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        squashed, divisor, slope = ctx.saved_tensors
        gradient = (grad * slope).mul_(HIGHEST).div_(divisor)
        return torch.ops.aten.tanh_backward.grad_input(gradient, squashed, grad_input=gradient), *[None] * 6


@contextmanager
def fixed_weights(network: nn.Module) -> Iterator[None]:
    """Within: no weight of `network` changes; every `DoReFaWeight` works out once what its bit-widths share."""
    quantizers = [module for module in network.modules() if isinstance(module, DoReFaWeight)]
    for quantizer in quantizers:
        quantizer.kept = []
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.kept = None
