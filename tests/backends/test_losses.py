"""Training with the fused kernels goes as with the eager backend, up to float32 noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from backends import fused
from repro.networks.quantize import QuantizedConv2d
from tests.backends import tolerances
from tests.benchmarks import networks
from tests.benchmarks.networks import LearnedRange

STEPS = 20
BEGINNINGS = range(1, 3)
"""Of trainings whose weights are off by about a unit roundoff at first."""


def losses(backend: str, beginning: int = 0) -> Tensor:
    """Of a small network with `ewgs` and learned ranges, whose gradients are sums."""
    generator = torch.Generator().manual_seed(beginning)
    with networks.seeded():
        convolutions = [nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)]
        layers: list[nn.Module] = []
        for convolution in convolutions:
            quantizer = LearnedRange(convolution.weight.abs().max().item(), True, "ours")
            layers += [QuantizedConv2d(convolution, quantizer), nn.BatchNorm2d(16), LearnedRange(6.0, False, "ours")]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, networks.CLASSES))
    with torch.no_grad():
        for parameter in network.parameters():
            noise = tolerances.U * torch.randn(parameter.shape, generator=generator)
            parameter.mul_(1 + noise * bool(beginning))
    step = networks.training_step(network, batch=16, pixels=16, backend=backend, learning_rate=4e-3)
    return torch.tensor([step() for _ in range(STEPS)])


@pytest.mark.usefixtures("one_thread")
def test_losses_of_twenty_steps_are_those_of_the_eager_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """As near as an eager training is to others whose weights differ in their last bits at the start."""
    calls: list[int] = []
    backward = fused.backward
    monkeypatch.setattr(fused, "backward", lambda *a, **o: calls.append(1) or backward(*a, **o))
    eager = losses("eager")
    assert not calls
    noise = torch.stack([(losses("eager", beginning) - eager).abs() for beginning in BEGINNINGS]).amax(0)
    found = (losses("fused") - eager).abs()
    assert len(calls) == STEPS * 6
    assert 0 < noise.max() < 0.01 * eager[0]
    assert (found.cummax(0).values <= noise.cummax(0).values + tolerances.LOSS * eager).all()
    assert eager[-1] < eager[0]
