"""What `fake_quantize` is made of: the backend that serves a call, and its gradients as autograd takes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import backends
from backends.contract import Backend, BackendUnavailableError, Scaler, registered_function

FUSED_DTYPES = (torch.float32, torch.bfloat16)
TORCH_BACKENDS = tuple(name for name in backends.NAMES if name != "reference")


def torch_backend(name: str | None, x: Tensor, scaler: str) -> Backend:
    """The backend asked for by name or by the environment; else, automatically, fused where it can and eager."""
    return _backend(name, backends.preset(name), x.device, _fusable(x, scaler))


def torch_functions(name: str | None, x: Tensor, scaler: str) -> Backend:
    """The same; of `fused`, the module for the device of x.

    Functions on the way cost more than they seem to: between two calls the data of a network drives Python out of the
    processor's cache.
    """
    return _functions(name, backends.preset(name), x.device, _fusable(x, scaler))


def _fusable(x: Tensor, scaler: str) -> bool:
    return x.dtype in FUSED_DTYPES and not registered_function(scaler)


def _backend(name: str | None, preset: str | None, device: torch.device, fusable: bool) -> Backend:
    automatic = not (name or preset)
    module: Any = backends.choose("eager" if automatic and not fusable else name, preset, device)
    if module.__name__ == "backends.reference":
        raise BackendUnavailableError(f"backend 'reference' computes on NumPy arrays: ask for one of {TORCH_BACKENDS}")
    return module


@cache
def _functions(name: str | None, preset: str | None, device: torch.device, fusable: bool) -> Backend:
    module: Any = _backend(name, preset, device, fusable)
    return module.kernels(device.type) if module.__name__ == "backends.fused" else module


def _first_order(backward: Callable) -> Callable:
    """`once_differentiable`, at its price only where a graph of the backward is asked for."""
    guarded = once_differentiable(backward)
    return lambda ctx, grad: (guarded if torch.is_grad_enabled() else backward)(ctx, grad)


class FakeQuantize(torch.autograd.Function):
    """`fake_quantize` of a backend that is chosen, with the gradients of all four."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step: Any,
        lower: Any,
        upper: Any,
        noise: Tensor | None,
        constants: tuple[Scaler, int | None, Backend],
    ) -> Tensor:
        parameters: list[Any] = [step, lower, upper]
        for place, parameter in enumerate(parameters):
            if isinstance(parameter, Tensor) and parameter.is_cpu and not parameter.ndim:
                parameters[place] = parameter.item()  # once, for the backward too
        ctx.save_for_backward(x, noise, *[p for p in parameters if isinstance(p, Tensor)])
        ctx.constants, ctx.numbers = constants, [None if isinstance(p, Tensor) else p for p in parameters]
        return constants[2].forward(x, *parameters, axis=constants[1])

    @staticmethod
    @_first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, noise, *tensors = ctx.saved_tensors
        following = iter(tensors)
        parameters = [next(following) if number is None else number for number in ctx.numbers]
        scaler, axis, module = ctx.constants
        needs = ctx.needs_input_grad[1:4]
        own = module.backward(grad, x, *parameters, scaler=scaler, axis=axis, noise=noise, needs=needs)
        return *own, None, None  # autograd gives a sum the dtype and the device of its parameter


class FixedGrid(torch.autograd.Function):
    """The same where x alone is a tensor: with less to keep, less is to be done on every call."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, grid: tuple[Any, Any, Any], constants: tuple[Scaler, int | None, Backend]
    ) -> Tensor:
        ctx.grid, ctx.constants = grid, constants
        ctx.save_for_backward(x)
        return constants[2].forward(x, *grid, axis=constants[1])

    @staticmethod
    @_first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,), (scaler, axis, module) = ctx.saved_tensors, ctx.constants
        needs = (False, False, False)
        return module.backward(grad, x, *ctx.grid, scaler=scaler, axis=axis, needs=needs).x, None, None
