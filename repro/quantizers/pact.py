"""PACT activations: cut at a learned clip level alpha and rounded to the levels below it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from backends import Scaler
from backends.autograd import fake_quantize

SMALLEST_ALPHA = 1e-3


class PACT(nn.Module):
    """One-sided quantizer in the place of a ReLU: `y = rint(clip(x, 0, alpha) / step) * step`.

    `step = alpha / (2^bits - 1)` is detached, so that the gradient of alpha is the sum of the incoming gradient over
    the clipped elements, as PACT and paper B have it (contract G2). With `bits = None` it is the ReLU itself.

    `signed`, for an activation of both signs: `clip(x, -alpha, alpha)` and `step = alpha / (2^(bits-1) - 1)`; the
    gradient of alpha is the sum over x > alpha less that over x < -alpha; `bits = None` gives x.

    Args:
        bits: bit-width (with a sign 2 or more), or None for full precision; may be switched at any time.
        alpha: the clip level that training starts from, in the unit of x.
        scaler: multiplier of the gradient that passes through rounding.
        signed: whether x has both signs.

    Shapes: any in, the same out. Source: Choi et al. 2018, PACT; paper B, section on quantizers.

    >>> pact = PACT(bits=2, alpha=3.0)
    >>> x = torch.tensor([-1.0, 0.4, 1.6, 5.0], requires_grad=True)
    >>> pact(x).tolist()
    [0.0, 0.0, 2.0, 3.0]
    >>> pact(x).sum().backward()
    >>> x.grad.tolist(), pact.alpha.grad.item()
    ([0.0, 1.0, 1.0, 0.0], 1.0)
    """

    def __init__(
        self,
        bits: int | None = None,
        alpha: float = 2.0,
        scaler: Scaler = Scaler("ste"),  # noqa: B008
        signed: bool = False,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.scaler = scaler
        self.signed = signed
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    def forward(self, x: Tensor) -> Tensor:
        if self.bits is None:
            return x if self.signed else x.relu()
        step = self.alpha.detach() / (2 ** (self.bits - self.signed) - 1)
        return fake_quantize(x, step, -self.alpha if self.signed else 0.0, self.alpha, scaler=self.scaler)

    @torch.no_grad()
    def keep_alpha_positive(self) -> None:
        """Hold alpha at or above 1e-3; called after each update, since a step of 0 has no grid."""
        self.alpha.clamp_(min=SMALLEST_ALPHA)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}"


class SwitchablePACT(nn.Module):
    """PACT with a clip level of its own for each bit-width: `bits` says which one works and learns.

    >>> pact = SwitchablePACT((8, 2), alpha=3.0)
    >>> pact.bits = 2
    >>> pact(torch.tensor([-1.0, 0.4, 1.6, 5.0])).tolist()
    [0.0, 0.0, 2.0, 3.0]
    """

    def __init__(
        self,
        widths: Sequence[int],
        alpha: float = 2.0,
        scaler: Scaler = Scaler("ste"),  # noqa: B008
        signed: bool = False,
    ) -> None:
        super().__init__()
        self.bits = widths[0]
        self.levels = nn.ModuleDict({str(bits): PACT(bits, alpha, scaler, signed) for bits in widths})

    def forward(self, x: Tensor) -> Tensor:
        return self.levels[str(self.bits)](x)
