"""DoReFa-style weights whose codes are nested: the code at fewer bits is a prefix of the 8-bit code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backends import Scaler
from backends.autograd import fake_quantize

STORED_BITS = 8
HIGHEST = 2**STORED_BITS - 1


class DoReFaWeight(nn.Module):
    """Quantized weights in [-1, 1] from float weights of any scale, straight-through in the backward pass.

        t   = tanh(w) / (2 max|tanh w|) + 1/2
        h   = rint(255 t)                               the stored 8-bit code
        l   = floor(h / d) d,  d = 2^(8 - bits)         its prefix of `bits` bits
        w_q = 2 (l / 255) (mean(h) / mean(l)) - 1

    The scale of w is not restored (batch normalisation absorbs it). All-zero weights, or a prefix that is zero
    everywhere, give zeros. `floor` is the contract's rounding primitive on shifted codes (contract, "Truncated
    codes"), so that no code is masked. `bits = None` returns w.

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
        realign_in_graph: bool = True,
        scaler: Scaler = Scaler("ste"),  # noqa: B008
    ) -> None:
        super().__init__()
        self.bits = bits
        self.realign_in_graph = realign_in_graph
        self.scaler = scaler

    def forward(self, weight: Tensor) -> Tensor:
        if self.bits is None:
            return weight
        squashed = weight.tanh()
        largest = squashed.abs().amax()
        # An all-zero weight must not become 0/0: its largest is replaced by 1 and the result by zeros below.
        divisor = torch.where(largest > 0, largest, 1.0)
        if not self.realign_in_graph:
            divisor = divisor.detach()
        stored = fake_quantize(HIGHEST * (squashed / (2 * divisor) + 0.5), 1.0, 0.0, float(HIGHEST), scaler=self.scaler)
        prefix = self._prefix(stored)
        total = prefix.sum()
        ratio = stored.sum() / torch.where(total > 0, total, 1.0)
        if not self.realign_in_graph:
            ratio = ratio.detach()
        quantized = prefix * (ratio * (2 / HIGHEST)) - 1
        return torch.where((largest > 0) & (total > 0), quantized, 0.0)

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
