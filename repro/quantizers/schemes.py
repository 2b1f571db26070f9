"""Ways to quantize a weight that the papers behind the tables use, by name, each to be told from the nested one."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from backends import Scaler
from backends.autograd import fake_quantize
from repro.quantizers.dorefa import DoReFaWeight

Rounding = Literal["nearest", "floor", "centred"]


class UnitWeight(nn.Module):
    """Quantized weights in [-1, 1] whose codes at each bit-width are rounded from the float weight itself.

        t         = tanh(w) / (2 max|tanh w|) + 1/2
        nearest:  q = rint((2^b - 1) t) / (2^b - 1)             DoReFa-Net, Zhou et al. 2016, eq. 9
        floor:    q = min(floor(2^b t), 2^b - 1) / 2^b          AdaBits, Jin et al. 2020
        centred:  q = (min(floor(2^b t), 2^b - 1) + 1/2) / 2^b  AdaBits, its later variant
        w_q       = 2 q - 1

    Straight-through in the backward pass, max|tanh w| a constant. All-zero weights give zeros; `bits = None` returns w.

    Args:
        rounding: one of the three.
        bits: bit-width 1..8, or None for full precision; may be switched at any time.

    Shapes: any in, the same out.

    >>> weight = torch.tensor([-1.0, -0.1, 0.1, 1.0])
    >>> [round(v, 3) for v in UnitWeight("nearest", bits=2)(weight).tolist()]
    [-1.0, -0.333, 0.333, 1.0]
    >>> UnitWeight("floor", bits=2)(weight).tolist(), UnitWeight("centred", bits=2)(weight).tolist()
    ([-1.0, -0.5, 0.0, 0.5], [-0.75, -0.25, 0.25, 0.75])
    """

    def __init__(self, rounding: Rounding, bits: int | None = None) -> None:
        super().__init__()
        self.rounding = rounding
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        if self.bits is None:
            return weight
        squashed = weight.tanh()
        largest = squashed.detach().abs().amax()
        # An all-zero weight must not become 0/0: its largest is replaced by 1 and the result by zeros below.
        unit = squashed / (2 * torch.where(largest > 0, largest, 1.0)) + 0.5
        return torch.where(largest > 0, 2 * self._rounded(unit) - 1, 0.0)

    def _rounded(self, unit: Tensor) -> Tensor:
        assert self.bits is not None
        levels = 2**self.bits
        if self.rounding == "nearest":
            highest = levels - 1
            return fake_quantize(highest * unit, 1.0, 0.0, float(highest), scaler=Scaler("ste")) / highest
        offset = 0.5 if self.rounding == "centred" else 0.0
        code = (unit.detach() * levels).floor().clamp(max=levels - 1)
        return unit + ((code + offset) / levels - unit.detach())

    def extra_repr(self) -> str:
        return f"{self.rounding}, bits={self.bits}"


def weight(scheme: str, realign_in_graph: bool = False) -> nn.Module:
    """A weight quantizer of a scheme, at full precision until its `bits` are set.

    `nested` (`DoReFaWeight`) or a rounding of `UnitWeight`; `_restored` behind it gives the weights their scale back.
    Only nested codes have means to realign.

    >>> weight("nested"), weight("floor_restored").quantizer
    (DoReFaWeight(bits=None), UnitWeight(floor, bits=None))
    """
    codes, _, restored = scheme.partition("_")
    quantizer: nn.Module
    if codes == "nested":
        quantizer = DoReFaWeight(realign_in_graph=realign_in_graph)
    else:
        quantizer = UnitWeight(cast(Rounding, codes))
    return RestoredScale(quantizer) if restored else quantizer


class RestoredScale(nn.Module):
    """`max|tanh w|` times what `quantizer` makes of w: its weights get back the scale that they lost.

    Transparent where the quantizer's `bits` is None.

    >>> RestoredScale(UnitWeight("nearest", bits=2))(torch.tensor([-0.5, 0.5])).tolist() == [
    ...     -torch.tensor(0.5).tanh().item(), torch.tensor(0.5).tanh().item()]
    True
    """

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, weight: Tensor) -> Tensor:
        quantized = self.quantizer(weight)
        return quantized if self.quantizer.bits is None else quantized * weight.detach().tanh().abs().amax()
