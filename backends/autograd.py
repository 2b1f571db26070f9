"""The differentiable quantizer for torch: `fake_quantize`, over the forward and backward of a torch backend.

Eager calls go through an `autograd.Function`. Under `torch.compile` and `torch.export` the same call becomes, in
`backends.tracing`, either the operator of `backends.operator`, which runs a backend as it is but which Inductor cannot
fuse with its neighbours, or on the CPU the operations of the eager backend, which it can.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import backends
from backends import operator  # noqa: F401  registered, for the exported programs that call it
from backends.contract import Backend, BackendUnavailableError, Scaler, check_noise, registered_function

FUSED_DTYPES = (torch.float32, torch.bfloat16)
FASTER_TRACED: tuple[str, ...] = ()
"""Device types on which a compiled training step is faster with the eager operations, fused by Inductor with their
neighbours, than with the operator. On two CPU cores the operator needs 0.74 of their time (`benchmarks/`, "compiled
training step"). CUDA cannot be one of them: there Inductor divides by an approximation, against Q1."""
TORCH_BACKENDS = tuple(name for name in backends.NAMES if name != "reference")


def fake_quantize(
    x: Tensor,
    step: Any,
    lower: Any,
    upper: Any,
    *,
    scaler: Scaler,
    axis: int | None = None,
    backend: str | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """`y = rint(clip(x, lower, upper) / step) * step`, differentiable in x, step, lower and upper.

    The gradients, with g that of y, v = clip(x) / step, and s = scaler(g, v - rint(v)):

        dx     = g * s           where lower <= x <= upper, else 0
        dstep  = sum(g * (rint(v) - s * v))
        dupper = sum of g * s    over x > upper
        dlower = sum of g * s    over x < lower

    x is float32, float64, float16 or bfloat16, of any shape; y has its shape, dtype and strides. `step`, `lower` and
    `upper`, in the unit of x, are numbers, 0-d tensors or, with `axis`, 1-D tensors of length `x.shape[axis]`. `noise`,
    for the two noise controls alone, is a tensor like x. `backend` names a torch backend (`backends.get` chooses
    without it).

    Between forward and backward x alone is kept, beside the parameters (and the noise): the rest is recomputed (G4).
    There is no second derivative. `torch.compile` and `torch.export` trace through it without a graph break; autocast
    leaves it alone. Raises `TypeError` and `ValueError` as `backends.eager.forward` does, and as
    `backends.get` for a backend that is unknown or cannot serve. Source: contract Q1-Q7, G1-G4.

    >>> x = torch.tensor([-9.0, 0.3, 1.0, 2.0], requires_grad=True)
    >>> step, upper = torch.tensor(0.5, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    >>> y = fake_quantize(x, step, -1.0, upper, scaler=Scaler("ewgs", delta=0.1))
    >>> y.detach()
    tensor([-1.0000,  0.5000,  1.0000,  1.0000])
    >>> y.sum().backward()
    >>> x.grad, step.grad, upper.grad
    (tensor([0.0000, 0.9600, 1.0000, 0.0000]), tensor(0.4240), tensor(1.))
    """
    if torch.compiler.is_compiling():
        from backends.tracing import traced  # not before: it imports Dynamo, which takes seconds

        return traced(x, step, lower, upper, noise, axis, backend, scaler.name, scaler.delta, scaler.alpha, scaler.form)
    module = torch_backend(backend, x, scaler.name)
    check_noise(scaler, noise, x.shape)
    if noise is None and not (isinstance(step, Tensor) or isinstance(lower, Tensor) or isinstance(upper, Tensor)):
        return _FixedGrid.apply(x, (step, lower, upper), (scaler, axis, module))
    return FakeQuantize.apply(x, step, lower, upper, noise, (scaler, axis, module))


def torch_backend(name: str | None, x: Tensor, scaler: str) -> Backend:
    """The backend asked for by name or by the environment; else, automatically, fused where it can and eager."""
    if not (name or os.environ.get(backends.ENVIRONMENT_VARIABLE)):
        traced = torch.compiler.is_compiling() and x.device.type in FASTER_TRACED
        if traced or x.dtype not in FUSED_DTYPES or registered_function(scaler):
            return backends.get("eager")
    module = backends.get(name, x.device)
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


class _FixedGrid(torch.autograd.Function):
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


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x itself, whose gradient is multiplied by `factor`: LSQ's, from `contract.lsq_gradient_factor` (G5).

    >>> step = torch.tensor(0.5, requires_grad=True)
    >>> scale_gradient(step, 0.1).backward()
    >>> step.grad
    tensor(0.1000)
    """
    return _ScaleGradient.apply(x, factor)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None
