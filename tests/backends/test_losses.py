"""Training with the fused kernels goes as with the eager backend, up to float32 noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from backends import fused
from repro.networks.quantize import QuantizedConv2d, set_bits
from tests.backends import tolerances
from tests.benchmarks import networks
from tests.benchmarks.networks import LearnedRange

STEPS = 20
BEGINNINGS = range(1, 3)
"""Of trainings whose weights are off by about a unit roundoff at first."""


def three_convolutions() -> nn.Module:
    """With `ewgs` and learned ranges, whose gradients are sums."""
    with networks.seeded():
        convolutions = [nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)]
        layers: list[nn.Module] = []
        for convolution in convolutions:
            quantizer = LearnedRange(convolution.weight.abs().max().item(), True, "ours")
            layers += [QuantizedConv2d(convolution, quantizer), nn.BatchNorm2d(16), LearnedRange(6.0, False, "ours")]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, networks.CLASSES))


def resnet18() -> nn.Module:
    """Narrow, with paper B's weights and activations."""
    network = networks.resnet18(True, width=8)
    set_bits(network, networks.SINGLE_BITS)
    return network


class Trained(NamedTuple):
    """A network, the side of its images, its fake quantizations a step, and how much its losses may vary by noise."""

    make: Callable[[], nn.Module]
    pixels: int
    calls: int
    noise: float


NETWORKS = {
    "three convolutions": Trained(three_convolutions, 16, 6, 0.01),
    "ResNet18": Trained(resnet18, 32, 16, 0.03),
}
"""Not EfficientNet-Lite0: untrained and at 3 bits, a roundoff in its weights changes its losses by a tenth."""


def losses(name: str, backend: str, beginning: int = 0) -> Tensor:
    trained = NETWORKS[name]
    generator = torch.Generator().manual_seed(beginning)
    network = trained.make()
    with torch.no_grad():
        for parameter in network.parameters():
            noise = tolerances.U * torch.randn(parameter.shape, generator=generator)
            parameter.mul_(1 + noise * bool(beginning))
    step = networks.training_step(network, batch=16, pixels=trained.pixels, backend=backend, learning_rate=4e-3)
    return torch.tensor([step() for _ in range(STEPS)])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", NETWORKS)
def test_losses_of_twenty_steps_are_those_of_the_eager_backend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As near as an eager training is to others whose weights differ in their last bits at the start."""
    calls: list[int] = []
    kernels = fused.kernels("cpu")
    backward = kernels.backward
    monkeypatch.setattr(kernels, "backward", lambda *a, **o: calls.append(1) or backward(*a, **o))
    eager = losses(name, "eager")
    assert not calls
    noise = torch.stack([(losses(name, "eager", beginning) - eager).abs() for beginning in BEGINNINGS]).amax(0)
    found = (losses(name, "fused") - eager).abs()
    assert len(calls) == STEPS * NETWORKS[name].calls
    assert 0 < noise.max() < NETWORKS[name].noise * eager[0]
    assert (found.cummax(0).values <= noise.cummax(0).values + tolerances.LOSS * eager).all()
    assert eager[-1] < eager[0]
