"""What `fake_quantize` is made of: the backend that serves a call, and its gradients as autograd takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import backends
from backends.contract import Backend, BackendUnavailableError, Scaler, registered_function

FUSED_DTYPES = (torch.float32, torch.bfloat16)
FASTER_TRACED: tuple[str, ...] = ()
"""Device types on which a compiled training step is faster with the eager operations, fused by Inductor with their
neighbours, than with the operator. On two CPU cores the operator needs 0.75 of their time (`benchmarks/`, "compiled
training step"). CUDA cannot be one of them: there Inductor divides by an approximation, against Q1."""
TORCH_BACKENDS = tuple(name for name in backends.NAMES if name != "reference")


def torch_backend(name: str | None, x: Tensor, scaler: str) -> Backend:
    """The backend asked for by name or by the environment; else, automatically, fused where it can and eager."""
    preset = backends.preset(name)  # asked for once: looking in vain takes a microsecond
    if not (name or preset):
        traced = torch.compiler.is_compiling() and x.device.type in FASTER_TRACED
        if traced or x.dtype not in FUSED_DTYPES or registered_function(scaler):
            return backends.choose("eager", None, x.device)
    module = backends.choose(name, preset, x.device)
    if module.__name__ == "backends.reference":  # type: ignore[attr-defined]
        raise BackendUnavailableError(f"backend 'reference' computes on NumPy arrays: ask for one of {TORCH_BACKENDS}")
    return module


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
        ctx.constants, ctx.parameters = constants, [None if isinstance(p, Tensor) else p for p in (step, lower, upper)]
        ctx.save_for_backward(x, *[p if isinstance(p, Tensor) else None for p in (step, lower, upper)], noise)
        _, axis, module = constants
        return module.forward(x, step, lower, upper, axis=axis)

    @staticmethod
    @_first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors, noise = ctx.saved_tensors
        scaler, axis, module = ctx.constants
        parameters = [n if t is None else t for n, t in zip(ctx.parameters, tensors, strict=True)]
        needs = ctx.needs_input_grad[1:4]
        gradients = module.backward(grad, x, *parameters, scaler=scaler, axis=axis, noise=noise, needs=needs)
        own = [
            gradient if gradient is None or gradient.dtype == t.dtype else gradient.to(t)
            for gradient, t in zip(gradients, (x, *tensors), strict=True)
        ]
        return *own, None, None


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
