"""The quantizer as an operator of torch's library, for graphs: `torch.compile` and `torch.export` see one node.

Eager calls do without it: the dispatcher makes an operator with an autograd formula cost twice an
`autograd.Function`. `backends.autograd.fake_quantize` chooses; nothing else needs this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import backends
from backends.contract import Scaler

Four = tuple[Tensor, Tensor, Tensor, Tensor]
AUTOCAST_KEYS = ("AutocastCPU", "AutocastCUDA")


@torch.library.custom_op("backends::fake_quantize", mutates_args=())
def fake_quantize(
    x: Tensor,
    step: Tensor,
    lower: Tensor,
    upper: Tensor,
    noise: Tensor | None,
    axis: int | None,
    backend: str,
    scaler: str,
    delta: float,
    alpha: float | None,
    form: str,
) -> Tensor:
    """`rint(clip(x, lower, upper) / step) * step` as `torch.ops.backends.fake_quantize`, with its four gradients.

    All arguments are positional. `noise` and those from `scaler` on (the fields of a `Scaler`) serve the gradients
    alone. Shapes, dtypes, strides and errors are those of `forward` and `backward` of the torch backend named.

    >>> x, step, lower, upper = torch.tensor([0.3, 9.0]), torch.tensor(0.5), torch.tensor(-1.0), torch.tensor(1.0)
    >>> torch.ops.backends.fake_quantize(x, step, lower, upper, None, None, "eager", "ste", 0.0, None, "printed")
    tensor([0.5000, 1.0000])
    """
    return backends.get(backend, x.device).forward(x, step, lower, upper, axis=axis)


@fake_quantize.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("backends::fake_quantize_backward", mutates_args=())
def fake_quantize_backward(
    grad: Tensor,
    x: Tensor,
    step: Tensor,
    lower: Tensor,
    upper: Tensor,
    noise: Tensor | None,
    axis: int | None,
    backend: str,
    scaler: str,
    delta: float,
    alpha: float | None,
    form: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four gradients, with the strides of x for the first and in the compute dtype for the others.

    `needs` says of step, lower and upper whether theirs is wanted; the others are empty.
    """
    own = Scaler(scaler, delta, alpha, form)  # type: ignore[arg-type]
    module, out = backends.get(backend, x.device), torch.empty_like(x)
    wanted = needs[0], needs[1], needs[2]
    dx, *sums = module.backward(grad, x, step, lower, upper, scaler=own, axis=axis, noise=noise, out=out, needs=wanted)
    empty = x.new_empty(0, dtype=compute_dtype(x))
    of_step, of_lower, of_upper = (empty.clone() if s is None else s.clone() for s in sums)  # results share no memory
    return dx, of_step, of_lower, of_upper


@fake_quantize_backward.register_fake
def _(grad: Tensor, x: Tensor, step: Tensor, lower: Tensor, upper: Tensor, *rest: Any) -> Four:
    dtype, needs = compute_dtype(x), rest[-1]
    shapes = [p.shape if needed else (0,) for p, needed in zip((step, lower, upper), needs, strict=True)]
    of_step, of_lower, of_upper = (x.new_empty(shape, dtype=dtype) for shape in shapes)
    return torch.empty_like(x), of_step, of_lower, of_upper


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 input, float32 for all other (Q5)."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.axis, ctx.backend, ctx.scaler, ctx.delta, ctx.alpha, ctx.form = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, *parameters, noise = ctx.saved_tensors
    constants = (ctx.axis, ctx.backend, ctx.scaler, ctx.delta, ctx.alpha, ctx.form)
    needs = list(ctx.needs_input_grad[1:4])
    gradients = torch.ops.backends.fake_quantize_backward(grad, x, *parameters, noise, *constants, needs)
    own = [
        gradient.to(tensor.dtype) if needed else None
        for gradient, tensor, needed in zip(gradients, (x, *parameters), (True, *needs), strict=True)
    ]
    return *own, None, *(None for _ in constants)


fake_quantize.register_autograd(_differentiate, setup_context=_keep)

# Autocast casts nothing: the quantizer computes in float32 whatever the dtype of x, and y keeps that dtype (Q5).
_library = torch.library.Library("backends", "FRAGMENT")
for _name in ("fake_quantize", "fake_quantize_backward"):
    for _key in AUTOCAST_KEYS:
        _library.impl(_name, torch.library.fallthrough_kernel, _key)
