"""Training with the fused kernels goes as with the eager backend, up to float32 noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.backends import tolerances
from tests.benchmarks import networks

STEPS = 20
FIRST = 5
"""Steps after which no code has gone the other way yet for a last bit, so that losses differ by roundings alone."""


def losses(backend: str, changed: bool = False) -> Tensor:
    """Of a ResNet18 at 4 bits; `changed`: with weights off by about a unit roundoff from the start."""
    network = networks.resnet18(quantized=True, width=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = tolerances.U * torch.randn(parameter.shape, generator=generator)
            parameter.mul_(1 + noise * changed)
    step = networks.training_step(network, batch=8, pixels=16, bits=(networks.SINGLE_BITS,), backend=backend)
    return torch.tensor([step() for _ in range(STEPS)])


@pytest.mark.usefixtures("one_thread")
def test_losses_of_twenty_steps_are_those_of_the_eager_backend() -> None:
    """As near as two eager trainings whose weights differ in their last bits; at first much nearer."""
    eager = losses("eager")
    noise, found = ((other - eager).abs() / eager for other in (losses("eager", changed=True), losses("fused")))
    assert noise.max() > 0
    assert found[:FIRST].max() <= 1e-6
    assert found.max() <= noise.max()
    assert eager[-1] < eager[0]
