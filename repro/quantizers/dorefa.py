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
    everywhere, give zeros. `floor` is the contract's rounding primitive on shifted codes, so that no code is masked.
    `bits = None` returns w.

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
            return self.quantized(self.stored(weight))[0]
        return _StraightThrough.apply(weight, self)

    def stored(self, weight: Tensor) -> Stored:
        """What all bit-widths share."""
        squashed = weight.tanh()
        largest = squashed.abs().amax()
        if not self.realign_in_graph:
            largest = largest.detach()
        alive = largest.detach().sign()
        divisor = 2 * (largest + (1 - alive))
        share = (squashed / divisor).add_(0.5).mul_(HIGHEST)
        codes = fake_quantize(share, 1.0, 0.0, float(HIGHEST), scaler=self.scaler)
        return Stored(squashed, divisor, alive, codes, codes.sum())

    def quantized(self, stored: Stored) -> tuple[Tensor, Tensor]:
        """w_q at the present bit-width, and its slope over l; both 0 where all weights, or all of l, are 0."""
        prefix = self._prefix(stored.codes)
        total = prefix.sum()
        ratio = stored.total / total.clamp(min=0.5)  # a sum of codes is 0, or 1 and more
        if not self.realign_in_graph:
            ratio = ratio.detach()
        alive = stored.alive * total.detach().sign()
        slope = alive * ratio * (2 / HIGHEST)
        return (prefix * slope).sub_(alive), slope

    def once(self, weight: Tensor) -> Stored:
        """As `stored`; within `fixed_weights` it is worked out for the first bit-width alone."""
        if self.kept is None:
            return self.stored(weight)
        if not self.kept:
            self.kept.append(self.stored(weight))
        return self.kept[0]

    def _prefix(self, stored: Tensor) -> Tensor:
        """floor(h / d) d for integer h: rint((h - (d - 1)/2) / d) d."""
        assert self.bits is not None
        if self.bits == STORED_BITS:
            return stored
        d = float(2 ** (STORED_BITS - self.bits))
        offset = (d - 1) / 2
        return fake_quantize(stored - offset, d, -offset, HIGHEST - offset, scaler=self.scaler)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class _StraightThrough(torch.autograd.Function):
    """w_q with the gradient that autograd gives where max|tanh w| and mean(h)/mean(l) are constants, bit for bit.

    dw = g (dw_q/dl) 255 / (2 max|tanh w|) (1 - tanh(w)^2)
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, quantizer: DoReFaWeight) -> Tensor:
        stored = quantizer.once(weight.detach())
        quantized, slope = quantizer.quantized(stored)
        ctx.save_for_backward(stored.squashed, stored.divisor, slope)
        return quantized

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        squashed, divisor, slope = ctx.saved_tensors
        of_share = (grad * slope).mul_(HIGHEST).div_(divisor)
        return torch.ops.aten.tanh_backward(of_share, squashed), None


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
