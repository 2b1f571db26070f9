"""Homogeneous quantization: every tensor that paper A quantizes and no other, counted; and which operands meet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from backends import Scaler
from repro.networks import pretrained
from repro.networks.homogeneous import Homogeneous, quantize, quantized_layers
from repro.networks.post_training import layers
from repro.quantizers.static import StaticQuantizer, setting_ranges

COUNTS = {"efficientnet_lite0": (6_676_256, 4_609_992), "mobilenetv2": (6_616_672, 3_470_760)}
"""Quantized activations of one image of 224 px, and weights: as the seminar gives them."""


@pytest.fixture(scope="module", params=COUNTS)
def counted(request: pytest.FixtureRequest) -> tuple[str, nn.Module, dict[str, int]]:
    """A network of a thousand classes, quantized at 3 bits; elements by quantizer that one image met."""
    known = pretrained.get(request.param)
    network = timm.create_model(known.timm, num_classes=1000).eval()
    plain = list(layers(network))
    quantize(network, Homogeneous(3, known.signed))
    assert list(quantized_layers(network)) == plain
    found: dict[str, int] = {}

    def count(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: found.__setitem__(name, inputs[0].numel())

    for name, module in network.named_modules():
        if isinstance(module, StaticQuantizer):
            module.register_forward_pre_hook(count(name))
    with torch.no_grad(), setting_ranges(network):
        network(torch.rand(1, 3, pretrained.SIZE, pretrained.SIZE))
    return request.param, network, found


def test_elements_are_as_many_as_the_paper_counts(counted: tuple[str, nn.Module, dict[str, int]]) -> None:
    name, _, found = counted
    inputs = sum(n for quantizer, n in found.items() if quantizer.endswith(".input"))
    assert (inputs, sum(found.values()) - inputs) == COUNTS[name]


def test_every_quantized_tensor_is_listed(counted: tuple[str, nn.Module, dict[str, int]]) -> None:
    _, network, found = counted
    first, *others = quantized_layers(network)
    expected = {f"{name}.parameter_quantizers.weight" for name in (first, *others)}
    expected |= {f"{name}.input" for name in others} | {"classifier.parameter_quantizers.bias"}
    assert set(found) == expected


def test_signs_are_the_papers(counted: tuple[str, nn.Module, dict[str, int]]) -> None:
    name, network, _ = counted
    for layer, module in quantized_layers(network).items():
        assert all(q.signed for q in module.parameter_quantizers.values())
        if isinstance(module.input, StaticQuantizer):
            kind = layer.rpartition(".")[2]
            expanding = kind == "conv_pw" and layer != "blocks.0.0.conv_pw"
            depthwise = kind == "conv_dw" and name == "efficientnet_lite0"
            assert module.input.signed == (expanding or depthwise or kind == "conv_head"), layer


def net(rule: Homogeneous) -> nn.Module:
    torch.manual_seed(0)
    float_net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(18, 2))
    return quantize(float_net, rule)


class TestOperands:
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(1))

    def gradients(self, operands: str) -> tuple[Tensor, dict[str, Tensor], nn.Module]:
        network = net(Homogeneous(3, lambda layer: False, operands=operands))  # type: ignore[arg-type]
        with setting_ranges(network):
            y = network(self.x)
        (y**2).sum().backward()
        return y, {n: p.grad for n, p in network.named_parameters() if p.grad is not None}, network

    def test_the_forward_pass_is_the_same(self) -> None:
        assert torch.equal(self.gradients("quantized")[0], self.gradients("unquantized")[0])

    def test_the_float_input_and_weight_multiply_the_gradient(self) -> None:
        """By hand for the last layer, whose incoming gradient is 2 y."""
        y, gradients, network = self.gradients("unquantized")
        with torch.no_grad():
            x = network[:4](self.x)
            last = network[4]
            inside = (last.layer.weight.abs() <= last.parameter_quantizers["weight"].upper).float()
            exact, rounded = (2 * y).T @ x * inside, (2 * y).T @ last.input(x) * inside
        assert torch.allclose(gradients["4.layer.weight"], exact, atol=1e-5)
        assert not torch.allclose(exact, rounded, atol=1e-3)
        _, standard, _ = self.gradients("quantized")
        assert torch.allclose(standard["4.layer.weight"], rounded, atol=1e-5)

    def test_the_first_layers_see_a_difference_too(self) -> None:
        one, other = (self.gradients(o)[1]["0.layer.weight"] for o in ("quantized", "unquantized"))
        assert not torch.allclose(one, other, atol=1e-3)

    def test_others_are_refused(self) -> None:
        with pytest.raises(ValueError, match="operands=float"):
            Homogeneous(3, lambda layer: True, operands="float")  # type: ignore[arg-type]


def test_scalers_of_weights_and_inputs_are_their_own() -> None:
    network = net(Homogeneous(3, lambda layer: False, Scaler("ewgs"), Scaler("tanh")))
    scalers = {name: m.scaler.name for name, m in network.named_modules() if isinstance(m, StaticQuantizer)}
    assert {name: scaler for name, scaler in scalers.items() if name.endswith("input")} == {
        "2.input": "tanh", "4.input": "tanh",
    }  # fmt: skip
    assert {scaler for name, scaler in scalers.items() if not name.endswith("input")} == {"ewgs"}


def test_noise_is_asked_for_by_the_name_of_the_tensor() -> None:
    asked: list[str] = []

    def noise(name: str, scaler: Scaler, x: Tensor) -> Tensor:
        asked.append(f"{name} {scaler.name}")
        return torch.zeros_like(x)

    network = net(Homogeneous(3, lambda layer: False, Scaler("uniform_noise"), Scaler("gaussian_noise"), noise=noise))
    with setting_ranges(network):
        network(TestOperands.x)
    assert asked == [
        "0.weight uniform_noise", "2.weight uniform_noise", "2.input gaussian_noise",
        "4.weight uniform_noise", "4.bias uniform_noise", "4.input gaussian_noise",
    ]  # fmt: skip
