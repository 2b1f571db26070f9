"""The eager backend: the contract in plain torch operations, on any device.

Nothing here relies on autograd: the gradients are computed from their formulas, the mask from x (G1). Parameters become
tensors on the device of x before they meet it, because torch on CUDA replaces a division by a number with a
multiplication by its reciprocal (Q1), and nothing waits for the device (Q7).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from backends.contract import (
    NAN_CODE,
    Gradients,
    Needs,
    Scaler,
    check_axis,
    check_like,
    check_noise,
    check_parameters,
    registered_function,
)

_COMPUTE_DTYPE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


@torch.no_grad()
def codes(x: Tensor, step: Any, lower: Any, upper: Any, *, axis: int | None = None) -> Tensor:
    """`rint(clip(x, lower, upper) / step)`, half to even: int32, shape of x (Q1-Q3).

    NaN has the code -2**31; infinities have those of the bounds. Raises as `forward`.

    >>> codes(torch.tensor([-9.0, 0.25, 0.75, 0.8]), step=0.5, lower=-1.0, upper=1.0)
    tensor([-2,  0,  2,  2], dtype=torch.int32)
    """
    x, step, lower, upper, _ = _cast(x, step, lower, upper, axis)
    rounded = torch.round(_position(x, step, lower, upper))
    return torch.where(torch.isnan(rounded), NAN_CODE, rounded).to(torch.int32)


@torch.no_grad()
def forward(
    x: Tensor, step: Any, lower: Any, upper: Any, *, axis: int | None = None, out: Tensor | None = None
) -> Tensor:
    """`rint(clip(x, lower, upper) / step) * step`: shape, dtype and strides of x, in `out` where given (Q1-Q6).

    `step`, `lower`, `upper` are numbers, 0-d tensors or 1-D of length `x.shape[axis]`. NaN stays NaN.

    Raises `TypeError` unless x is float16, bfloat16, float32 or float64; `ValueError`, naming the argument, for
    parameters against Q6 that are numbers or 0-d tensors on the CPU (others are checked where they are set, by
    `contract.check_parameters`), for other tensors on another device than x, for parameters whose shape does not
    fit, and for an `out` of another shape or dtype.

    >>> forward(torch.tensor([-9.0, 0.25, 0.75, 0.8]), step=0.5, lower=-1.0, upper=1.0)
    tensor([-1.,  0.,  1.,  1.])
    """
    work, step, lower, upper, _ = _cast(x, step, lower, upper, axis)
    return _deliver(torch.round(_position(work, step, lower, upper)) * step, x, out)


@torch.no_grad()
def backward(
    grad: Tensor,
    x: Tensor,
    step: Any,
    lower: Any,
    upper: Any,
    *,
    scaler: Scaler,
    axis: int | None = None,
    noise: Tensor | None = None,
    out: Tensor | None = None,
    needs: Needs = (True, True, True),
) -> Gradients:
    """The four gradients, with g = `grad`, v = clip(x) / step, e = v - rint(v), and s the scaler's multiplier (G1-G3):

        dx     = g * s           where lower <= x <= upper, else 0
        dstep  = sum(g * (rint(v) - s * v))
        dupper = sum of g * s    over x > upper
        dlower = sum of g * s    over x < lower

    `grad` and `noise` have the shape of x; dx has its dtype and goes to `out` where given. The sums have the shape of
    their parameter and the compute dtype; torch adds them up in cascade. A NaN in x gets dx = 0 and makes dstep NaN.
    Raises as `forward`, and `ValueError` for noise that is missing or unasked.

    >>> grad, x = torch.ones(3), torch.tensor([-9.0, 0.3, 1.0])
    >>> backward(grad, x, 0.5, -1.0, 1.0, scaler=Scaler("ste"))
    Gradients(x=tensor([0., 1., 1.]), step=tensor(0.4000), lower=tensor(1.), upper=tensor(0.))
    """
    work, step, lower, upper, axis = _cast(x, step, lower, upper, axis)
    check_like("grad", grad, x)
    g = grad.to(work.dtype)
    v = _position(work, step, lower, upper)
    rounded = torch.round(v)
    s = _multiplier(scaler, g, v - rounded, noise)
    scaled = g * s
    dx = torch.where((work >= lower) & (work <= upper), scaled, 0)
    return Gradients(
        _deliver(dx, x, out),
        _sum_to(step, g * (rounded - s * v), axis) if needs[0] else None,
        _sum_to(lower, torch.where(work < lower, scaled, 0), axis) if needs[1] else None,
        _sum_to(upper, torch.where(work > upper, scaled, 0), axis) if needs[2] else None,
    )


@torch.no_grad()
def multiplier(scaler: Scaler, grad: Tensor, error: Tensor, noise: Tensor | None = None) -> Tensor:
    """The multiplier s of the table in `Scaler`: shape and dtype of grad; `error` is e, in grid units (S1, S4).

    Raises `TypeError` unless grad is of a float dtype, `ValueError` for noise that is missing or unasked.

    >>> multiplier(Scaler("pbgs", delta=0.1), torch.tensor([1.0, -1.0]), torch.tensor([0.5, -0.25]))
    tensor([1.0500, 1.0250])
    """
    dtype = _compute_dtype(grad)
    return _multiplier(scaler, grad.to(dtype), error.to(dtype), noise).to(grad.dtype)


def _position(x: Tensor, step: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """v = clip(x) / step: clip in real units, then a true division (Q1, Q3). NaN passes through both."""
    return torch.minimum(torch.maximum(x, lower), upper) / step


def _multiplier(scaler: Scaler, g: Tensor, e: Tensor, noise: Tensor | None) -> Tensor:
    """The scaler table, in the dtype of g and e."""
    check_noise(scaler, noise, g.shape)
    user = registered_function(scaler.name)
    if user:
        s = user(torch, g, e, scaler.delta, scaler.alpha).to(g.dtype)
        check_like(f"the result of scaler {scaler.name!r}", s, g)
        return s
    if scaler.name == "ste":
        return torch.ones_like(g)
    if noise is not None:
        return 1 + scaler.delta * noise.to(g.dtype)
    curve, strength = _CURVES[scaler.name]
    factor = scaler.delta * (strength(scaler.alpha) if scaler.form == "normalised" else 1.0)
    return 1 + factor * curve(g, e, scaler.alpha)


_CURVES = {
    "pbgs": (lambda g, e, alpha: e.abs(), lambda alpha: 1.0),
    "ewgs": (lambda g, e, alpha: g.sign() * e, lambda alpha: 1.0),
    "acos": (lambda g, e, alpha: torch.sin(math.pi * e), lambda alpha: 0.5),
    "tanh": (lambda g, e, alpha: g.sign() * torch.tanh(alpha * e), lambda alpha: 0.5),
    "invtanh": (lambda g, e, alpha: g.sign() * torch.atanh(alpha * e), lambda alpha: 0.5 / math.atanh(alpha / 2)),
}
"""Of each scaler: the curve that delta multiplies, and its further factor in the normalised form (S1)."""


def _compute_dtype(x: Tensor) -> torch.dtype:
    try:
        return _COMPUTE_DTYPE[x.dtype]
    except KeyError:
        raise TypeError(f"expected float16, bfloat16, float32 or float64, got {x.dtype}") from None


def _cast(
    x: Tensor, step: Any, lower: Any, upper: Any, axis: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, int | None]:
    """x, the parameters and the axis: compute dtype, device of x, shaped to broadcast against x (Q5-Q7)."""
    dtype = _compute_dtype(x)
    given = {"step": step, "lower": lower, "upper": upper}
    known = {name: value for name, value in given.items() if _is_cpu_scalar(value)}
    check_parameters(**known, dtype=str(dtype).removeprefix("torch."))
    for name, value in given.items():
        if name not in known and value.device != x.device:
            raise ValueError(f"{name} is on {value.device}, expected the device of x, {x.device}")
    tensors = {
        # `full` takes the number along with the kernel; copying a CPU tensor to a GPU would wait for it.
        name: torch.full((), float(value), dtype=dtype, device=x.device) if name in known else value.to(dtype)
        for name, value in given.items()
    }
    axis = check_axis(axis, x.shape, **{name: tensor.shape for name, tensor in tensors.items()})
    along = [-1 if dimension == axis else 1 for dimension in range(x.ndim)]
    step, lower, upper = (tensor.reshape(along) if tensor.ndim else tensor for tensor in tensors.values())
    return x.to(dtype), step, lower, upper, axis


def _is_cpu_scalar(value: Any) -> bool:
    """Whether reading the value costs nothing: a number, or a 0-d tensor on the CPU."""
    return not isinstance(value, Tensor) or (value.ndim == 0 and value.device.type == "cpu")


def _sum_to(parameter: Tensor, terms: Tensor, axis: int | None) -> Tensor:
    """Sum over all that share one value of the parameter: shape () or (channels,) (G3)."""
    shared = [d for d in range(terms.ndim) if parameter.ndim == 0 or d != axis]
    return terms.sum(shared) if shared else terms.clone()


def _deliver(result: Tensor, like: Tensor, out: Tensor | None) -> Tensor:
    """The result in the dtype of `like`, in `out` where given."""
    if out is None:
        return result.to(like.dtype)
    check_like("out", out, like)
    return out.copy_(result)
