"""Post-training quantization of any network of convolutions and linear layers: watch, calibrate, quantize, compare.

Quantized are the weights of every convolution and linear layer, and the inputs of all of them but the first, which is
the image. Biases and, where it was not folded, batch normalisation stay in float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import backends
from repro.quantizers.calibration import Histogram, Range, calibrate

SAMPLED = 32
"""One value in so many is counted while watching; the largest is always exact."""


def layers(network: nn.Module) -> dict[str, nn.Module]:
    """Every convolution and linear layer by name, in the order in which they were made."""
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


@torch.inference_mode()
def watch(
    network: nn.Module, batches: Iterable[Tensor], signed: Callable[[str], bool], every: int = SAMPLED
) -> dict[str, Histogram]:
    """Histograms of the input of every layer but the first, over all batches; `signed(layer)` says which have a sign.

    Raises `CalibrationError` when an activation is not finite.
    """
    histograms = {name: Histogram(signed=signed(name), every=every) for name in list(layers(network))[1:]}
    with watching(network, histograms):
        for batch in batches:
            network(batch)
    return histograms


@contextmanager
def watching(network: nn.Module, histograms: Mapping[str, Histogram]) -> Iterator[None]:
    """Within: the input of every layer in `histograms` is counted before it enters."""
    with _inputs(network, {name: histogram.observe for name, histogram in histograms.items()}):
        yield


def weight_ranges(network: nn.Module, method: str, bits: int, per_channel: bool) -> dict[str, Range]:
    """Range of the weights of every layer, signed; per channel along the first axis, that of the outputs."""
    axis = 0 if per_channel else None
    return {name: calibrate(_weight(m), method, bits=bits, axis=axis) for name, m in layers(network).items()}


def activation_ranges(histograms: Mapping[str, Histogram], method: str, bits: int, **options: Any) -> dict[str, Range]:
    """Range of every watched input; `options` go to the calibrator."""
    return {name: calibrate(h, method, bits=bits, signed=h.signed, **options) for name, h in histograms.items()}


@torch.inference_mode()
def quantize_weights(network: nn.Module, ranges: Mapping[str, Range], backend: str | None = None) -> dict[str, float]:
    """Replace the weights by their quantized values, in place; gives the signal-to-noise ratio of each, in dB."""
    ratios = {}
    for name, module in layers(network).items():
        weight = _weight(module)
        quantized = _quantize(weight, ranges[name], backend)
        ratios[name] = decibel(power(weight), power(weight - quantized))
        weight.copy_(quantized)
    return ratios


@contextmanager
def quantized_inputs(network: nn.Module, ranges: Mapping[str, Range], backend: str | None = None) -> Iterator[None]:
    """Within: the input of every layer in `ranges` is quantized before it enters."""

    def quantizer(found: Range) -> Callable[[Tensor], Tensor]:
        return lambda x: _quantize(x, found, backend)

    with _inputs(network, {name: quantizer(found) for name, found in ranges.items()}):
        yield


@contextmanager
def _inputs(network: nn.Module, functions: Mapping[str, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """Within: each layer's input passes through its function; one that returns None only looks at it."""
    modules = layers(network)

    def hook(function: Callable[[Tensor], Tensor | None]) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor | None]:
        return lambda module, inputs: function(inputs[0])

    handles = [modules[name].register_forward_pre_hook(hook(function)) for name, function in functions.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def layer_noise(
    network: nn.Module, float_network: nn.Module, batches: Iterable[Tensor]
) -> dict[str, tuple[float, float]]:
    """Power of every layer's float output, and of its difference to that of `network`, summed over all batches.

    The difference is all that has gathered up to and in this layer, not what the layer alone adds.
    """
    signal = dict.fromkeys(layers(network), 0.0)
    noise = dict.fromkeys(layers(network), 0.0)
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[name] = output.clone()  # the activation that follows may work in place

        return hook

    def compare(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            exact = outputs.pop(name)
            signal[name] += power(exact)
            noise[name] += power(exact - output)

        return hook

    handles = [m.register_forward_hook(keep(name)) for name, m in layers(float_network).items()]
    handles += [m.register_forward_hook(compare(name)) for name, m in layers(network).items()]
    try:
        for batch in batches:
            float_network(batch)
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (signal[name], noise[name]) for name in signal}


def power(x: Tensor) -> float:
    """Sum of squares, in float64."""
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


CEILING = 200.0
"""Decibels that stand for no noise at all: beyond what float32 can show."""


def decibel(signal: float, noise: float) -> float:
    """Signal-to-noise ratio 10 log10(signal / noise) in dB, 200 at most; of silence with noise, -200.

    Raises `ValueError` where either is not finite.

    >>> decibel(100.0, 1.0), decibel(1.0, 0.0)
    (20.0, 200.0)
    """
    if not (math.isfinite(signal) and math.isfinite(noise)):
        raise ValueError(f"power {signal} of the signal, {noise} of the noise: values are not finite")
    if noise == 0:
        return CEILING
    return max(-CEILING, min(CEILING, 10 * math.log10(signal / noise))) if signal else -CEILING


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _quantize(x: Tensor, found: Range, backend: str | None) -> Tensor:
    """Contract Q1-Q6; per channel along the first axis."""
    parameters = [torch.as_tensor(p, dtype=torch.float32, device=x.device) for p in found]
    axis = 0 if parameters[0].ndim else None
    if axis is not None:
        parameters = [p.expand(len(x)) for p in parameters]
    return backends.get(backend, x.device).forward(x, *parameters, axis=axis)
