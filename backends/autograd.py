"""The differentiable quantizer for torch: `fake_quantize`, over the forward and backward of a torch backend.

Eager calls go through an `autograd.Function`. Under `torch.compile` and `torch.export` the same call becomes, in
`backends.tracing`, either the operator of `backends.operator`, which runs a backend as it is but which Inductor cannot
fuse with its neighbours, or on the CPU the operations of the eager backend, which it can.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from backends import operator  # noqa: F401  registered, for the exported programs that call it
from backends.contract import NOISE_CONTROLS, Scaler, check_noise
from backends.function import FakeQuantize, FixedGrid, torch_functions


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

    Between forward and backward x alone is kept, beside the parameters (and the noise): the rest is recomputed (G4). Of
    0-d parameters on the CPU the numbers are kept: a change in between is not seen.
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
    if torch.compiler.is_compiling() or isinstance(x, FakeTensor):  # there are no data to compute with
        from backends.tracing import traced  # not before: it imports Dynamo, which takes seconds

        return traced(x, step, lower, upper, noise, axis, backend, scaler.name, scaler.delta, scaler.alpha, scaler.form)
    module = torch_functions(backend, x, scaler.name)
    if noise is not None or scaler.name in NOISE_CONTROLS:
        check_noise(scaler, noise, x.shape)
    if noise is None and not (isinstance(step, Tensor) or isinstance(lower, Tensor) or isinstance(upper, Tensor)):
        return FixedGrid.apply(x, (step, lower, upper), (scaler, axis, module))
    return FakeQuantize.apply(x, step, lower, upper, noise, (scaler, axis, module))


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
