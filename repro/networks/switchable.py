"""Batch norms that serve several bit-widths: one set of parameters and statistics for each, chosen in place."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn


class SwitchableBatchNorm2d(nn.Module):
    """A batch norm of its own for each bit-width: `bits` says which one works and learns.

    All start as copies of `norm`. Source: Yu et al. 2019, Slimmable Neural Networks; paper B, "Switchable BN".

    >>> norm = SwitchableBatchNorm2d(nn.BatchNorm2d(3), (8, 2))
    >>> norm.bits = 2
    >>> norm.current is norm.norms["2"]
    True
    """

    def __init__(self, norm: nn.BatchNorm2d, widths: Sequence[int]) -> None:
        super().__init__()
        self.bits = widths[0]
        self.norms = nn.ModuleDict({str(bits): copy.deepcopy(norm) for bits in widths})

    @property
    def current(self) -> nn.Module:
        """The batch norm of the present bit-width."""
        return self.norms[str(self.bits)]

    def forward(self, x: Tensor) -> Tensor:
        return self.current(x)


class TransitionalBatchNorm2d(nn.Module):
    """A batch norm of its own for each pair (bit-width of the layer before, bit-width of this layer).

    All start as copies of `norm`. Source: Bulat and Tzimiropoulos 2021, Bit-Mixer.

    >>> norm = TransitionalBatchNorm2d(nn.BatchNorm2d(3), (8, 2))
    >>> norm.previous, norm.bits = 8, 2
    >>> norm.current is norm.norms["8_2"], len(norm.norms)
    (True, 4)
    """

    def __init__(self, norm: nn.BatchNorm2d, widths: Sequence[int]) -> None:
        super().__init__()
        self.previous = self.bits = widths[0]
        self.norms = nn.ModuleDict({f"{a}_{b}": copy.deepcopy(norm) for a in widths for b in widths})

    @property
    def current(self) -> nn.Module:
        """The batch norm of the present pair."""
        return self.norms[f"{self.previous}_{self.bits}"]

    def forward(self, x: Tensor) -> Tensor:
        return self.current(x)
