"""Batch norms of several bit-widths: only the present one works and learns."""

import pytest
import torch
from torch import nn

from repro.networks.quantize import set_bits
from repro.networks.switchable import SwitchableBatchNorm2d, TransitionalBatchNorm2d

X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [SwitchableBatchNorm2d, TransitionalBatchNorm2d])
def test_only_the_present_norm_moves(kind: type) -> None:
    norm = kind(nn.BatchNorm2d(3), (8, 2))
    set_bits(norm, 2)
    norm(X).square().sum().backward()
    key = "2" if kind is SwitchableBatchNorm2d else "2_2"
    for name, one in norm.norms.items():
        assert (one.running_mean.abs().sum() > 0) == (name == key)
        assert (one.weight.grad is not None) == (name == key)


def test_copies_start_equal_to_the_norm_they_replace() -> None:
    start = nn.BatchNorm2d(3)
    start(X)
    for one in TransitionalBatchNorm2d(start, (8, 2)).norms.values():
        assert torch.equal(one.running_var, start.running_var)
        assert one.weight is not start.weight
