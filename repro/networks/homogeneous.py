"""Paper A's homogeneous quantization of any network: every layer's parameters, and every input but the image.

Quantized are the weights of all convolutions and linear layers, the bias of the classifier, and the input of every
layer but the first, all at one bit-width; batch normalisation is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from backends import Scaler
from repro.networks.post_training import layers
from repro.quantizers.static import StaticQuantizer, percentile, three_sigma

STE = Scaler("ste")
Operands = Literal["quantized", "unquantized"]
OPERANDS: tuple[Operands, ...] = get_args(Operands)
INPUT = ".input"
"""Ends the name of a layer's input."""
Noise = Callable[[str, Scaler, Tensor], Tensor]
"""`noise(name of the tensor, scaler, x)`: the noise that a noise control multiplies with, a tensor like x (S4)."""


class QuantizedLayer(nn.Module):
    """A layer whose input and parameters pass through quantizers; the layer itself stays as it was.

    With operands `quantized` the backward pass multiplies by the quantized input and weight, as differentiation has it;
    with `unquantized` by the float ones, as paper A's released code does. The forward pass is the same.

    Args:
        layer: any layer with a `weight`, and perhaps a `bias`.
        parameters: quantizers by the name of the parameter.
        input: the input's quantizer, None where the input stays in float.
        operands: of the backward pass.

    Shapes: those of the layer.
    """

    def __init__(
        self,
        layer: nn.Module,
        parameters: dict[str, nn.Module],
        input: nn.Module | None = None,
        operands: Operands = "quantized",
    ) -> None:
        super().__init__()
        self.layer, self.input, self.operands = layer, input, operands
        self.parameter_quantizers = nn.ModuleDict(parameters)

    def forward(self, x: Tensor) -> Tensor:
        exact: dict[str, Tensor] = {name: getattr(self.layer, name) for name in self.parameter_quantizers}
        rounded = {name: quantizer(exact[name]) for name, quantizer in self.parameter_quantizers.items()}
        x_rounded = x if self.input is None else self.input(x)
        if self.operands == "quantized":
            return functional_call(self.layer, rounded, (x_rounded,))
        with torch.no_grad():
            y = functional_call(self.layer, rounded, (x_rounded,))
        in_place = {name: _Valued.apply(rounded[name], exact[name]) for name in rounded}
        return _Valued.apply(functional_call(self.layer, in_place, (_Valued.apply(x_rounded, x),)), y)


class _Valued(torch.autograd.Function):
    """The second tensor as a value whose gradient goes to the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


@dataclass(frozen=True)
class Homogeneous:
    """How a float network is quantized.

    Attributes:
        bits: of every tensor.
        signed: whether the input of a layer, by name, has a sign; parameters always have.
        weights, activations: gradient scalers.
        operands: of the backward pass, see `QuantizedLayer`.
        noise: see `Noise`; needed by the noise controls alone.

    Raises `ValueError` for other operands.
    """

    bits: int
    signed: Callable[[str], bool]
    weights: Scaler = STE
    activations: Scaler = STE
    operands: Operands = "quantized"
    noise: Noise | None = None

    def __post_init__(self) -> None:
        if self.operands not in OPERANDS:
            raise ValueError(f"operands={self.operands}: give one of {', '.join(OPERANDS)}")

    def parameter(self, name: str) -> StaticQuantizer:
        """Quantizer of a parameter."""
        return StaticQuantizer(self.bits, True, three_sigma, self.weights, self._noise(name, self.weights))

    def input(self, layer: str) -> StaticQuantizer:
        """Quantizer of a layer's input."""
        noise = self._noise(layer + INPUT, self.activations)
        return StaticQuantizer(self.bits, self.signed(layer), percentile, self.activations, noise)

    def _noise(self, name: str, scaler: Scaler) -> Callable[[Tensor], Tensor] | None:
        draw = self.noise
        return None if draw is None else lambda x: draw(name, scaler, x)


def quantize(network: nn.Module, rule: Homogeneous) -> nn.Module:
    """Replace every convolution and linear layer of `network` in place under `rule`, and return it.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    >>> net = quantize(net, Homogeneous(3, signed=lambda layer: False))
    >>> [name for name, module in net.named_modules() if isinstance(module, StaticQuantizer)]
    ['0.parameter_quantizers.weight', '3.input', '3.parameter_quantizers.weight', '3.parameter_quantizers.bias']
    """
    for index, (name, layer) in enumerate(layers(network).items()):
        names = ["weight"] + ["bias"] * (isinstance(layer, nn.Linear) and layer.bias is not None)
        parameters: dict[str, nn.Module] = {own: rule.parameter(f"{name}.{own}") for own in names}
        quantized = QuantizedLayer(layer, parameters, rule.input(name) if index else None, rule.operands)
        network.set_submodule(name, quantized)
    return network


def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """Every quantized layer by name, in order."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}
