"""The differentiable quantizer for torch: `fake_quantize`, over the forward and backward of a torch backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import backends
from backends.contract import Backend, BackendUnavailableError, Scaler, check_noise

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
    There is no second derivative. Raises `TypeError` and `ValueError` as `backends.eager.forward` does, and as
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
    module = backends.get(backend, x.device)
    if module.__name__ == "backends.reference":  # type: ignore[attr-defined]
        raise BackendUnavailableError(f"backend 'reference' computes on NumPy arrays: ask for one of {TORCH_BACKENDS}")
    check_noise(scaler, noise, x.shape)
    return _FakeQuantize.apply(x, step, lower, upper, scaler, axis, module, noise)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step: Any,
        lower: Any,
        upper: Any,
        scaler: Scaler,
        axis: int | None,
        module: Backend,
        noise: Tensor | None,
    ) -> Tensor:
        parameters = (step, lower, upper)
        ctx.save_for_backward(x, noise, *(p if isinstance(p, Tensor) else None for p in parameters))
        ctx.numbers = [None if isinstance(p, Tensor) else p for p in parameters]
        ctx.scaler, ctx.axis, ctx.module = scaler, axis, module
        return module.forward(x, step, lower, upper, axis=axis)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, noise, *tensors = ctx.saved_tensors
        parameters = [n if t is None else t for n, t in zip(ctx.numbers, tensors, strict=True)]
        gradients = ctx.module.backward(grad, x, *parameters, scaler=ctx.scaler, axis=ctx.axis, noise=noise)
        wanted = [
            gradient.to(t) if needed else None
            for gradient, t, needed in zip(gradients, (x, *tensors), ctx.needs_input_grad, strict=False)
        ]
        return *wanted, None, None, None, None


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
