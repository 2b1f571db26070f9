"""Whole training steps: EfficientNet-Lite0 at 64 px and ResNet18-CIFAR, in full precision and quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backends
from backends import Scaler
from backends.autograd import fake_quantize
from repro.networks.depthwise import quicken
from repro.networks.quantize import LayerRule, QuantizedConv2d, quantize, set_bits
from repro.networks.resnet import ResNet18
from repro.quantizers import PACT, DoReFaWeight
from repro.quantizers.dorefa import fixed_weights
from tests.benchmarks.race import Contender

CLASSES = 10
JOINT_BITS = (8, 6, 4, 2)
SINGLE_BITS = 4
LITE0_BITS = 3
RELU6_RANGE = 6.0
EWGS = Scaler("ewgs")


class LearnedRange(nn.Module):
    """A quantizer whose step and range are learned independently, as in paper A.

    `kind` is how it computes: "ours", by the backend in force, or "torch", by torch's learnable fake quantization
    with a scale and a zero point.
    """

    def __init__(self, upper: float, signed: bool, kind: str) -> None:
        super().__init__()
        self.q_max = 2 ** (LITE0_BITS - signed) - 1
        self.signed, self.kind = signed, kind
        self.step = nn.Parameter(torch.tensor(upper / self.q_max))
        self.upper = nn.Parameter(torch.tensor(upper))
        self.zero = nn.Parameter(torch.tensor([0.0]))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "torch":
            q_min = -self.q_max if self.signed else 0
            quantize = torch._fake_quantize_learnable_per_tensor_affine
            return quantize(x, self.step.reshape(1), self.zero, q_min, self.q_max, 1.0)
        lower = -self.upper if self.signed else 0.0
        return fake_quantize(x, self.step, lower, self.upper, scaler=EWGS)


def lite0(kind: str | None) -> nn.Module:
    """EfficientNet-Lite0; with a kind, every weight, every ReLU6 and the output of every block are quantized.

    Its depthwise convolutions are quick (`repro.networks.depthwise`) whether they are quantized or not.
    """
    with seeded():
        network = quicken(timm.create_model("efficientnet_lite0", pretrained=False, num_classes=CLASSES))
    for name, module in list(network.named_modules()) if kind else []:
        if isinstance(module, nn.Conv2d):
            quantizer = LearnedRange(module.weight.abs().max().item(), True, kind)
            network.set_submodule(name, QuantizedConv2d(module, quantizer))
        elif isinstance(module, nn.ReLU6):
            network.set_submodule(name, LearnedRange(RELU6_RANGE, False, kind))
        elif name.endswith(("bn2.act", "bn3.act")):
            network.set_submodule(name, LearnedRange(RELU6_RANGE, True, kind))
    return network.to(memory_format=torch.channels_last)


def resnet18(quantized: bool, width: int = 64) -> nn.Module:
    """ResNet18-CIFAR; quantized, with paper B's weights and activations, but for the first convolution."""
    with seeded():
        network = ResNet18(width)
    if quantized:
        quantize(network, LayerRule(DoReFaWeight, PACT, keep=frozenset({"conv1", "act1"})))
    return network.to(memory_format=torch.channels_last)


def training_step(
    network: nn.Module,
    batch: int,
    pixels: int,
    bits: tuple[int, ...] = (),
    backend: str | None = None,
    learning_rate: float = 0.01,
    device: str = "cpu",
) -> Callable[[], float]:
    """A step of SGD on made-up images: forward and backward at each of `bits` in turn, then one update; the loss.

    As `repro.adaptive.joint.JointStep` does it where nobody teaches.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, pixels, pixels, generator=generator).to(memory_format=torch.channels_last)
    images, labels = images.to(device), torch.randint(CLASSES, (batch,), generator=generator).to(device)
    network.to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.9)

    def step() -> float:
        total = 0.0
        with asked_for(backend):
            optimizer.zero_grad(set_to_none=True)
            with fixed_weights(network):
                for width in bits or (None,):
                    if width:
                        set_bits(network, width)
                    loss = F.cross_entropy(network(images), labels)
                    loss.backward()
                    total += loss.item()
            optimizer.step()
        return total

    return step


@contextmanager
def seeded() -> Iterator[None]:
    """Within, torch draws from seed 0; afterwards as if nothing had been drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@contextmanager
def asked_for(backend: str | None) -> Iterator[None]:
    """`fake_quantize` computes by this backend where its caller names none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(backends.ENVIRONMENT_VARIABLE, backend or "")
        yield


def lite0_steps() -> dict[str, Contender]:
    """Slow to learn: made-up labels would soon drive a step below zero."""

    def step(kind: str | None, backend: str | None = None) -> Contender:
        return training_step(lite0(kind), 64, 64, backend=backend, learning_rate=1e-6)

    return {"fp32": step(None), "fused": step("ours", "fused"), "eager": step("ours", "eager"), "torch": step("torch")}


def resnet18_steps(batch: int = 64, device: str = "cpu") -> dict[str, Contender]:
    """`joint` serves four bit-widths with one update, `separate` takes a step for each.

    What a backend computes here are the activations: torch rounds the weights, alike for all.
    """

    def step(network: nn.Module, bits: tuple[int, ...] = (), backend: str | None = None) -> Contender:
        return training_step(network, batch, 32, bits, backend, device=device)

    network = resnet18(True)
    separate = [step(network, (bits,), "fused") for bits in JOINT_BITS]
    return {
        "fp32": step(resnet18(False)),
        "fused": step(resnet18(True), (SINGLE_BITS,), "fused"),
        "eager": step(resnet18(True), (SINGLE_BITS,), "eager"),
        "joint": step(resnet18(True), JOINT_BITS, "fused"),
        "separate": lambda: [one() for one in separate],
    }
