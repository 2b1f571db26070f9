"""The reference backend: the contract in NumPy, meant to be obviously right. Imports no torch.

float32 input is computed in float32, which is what the other backends are compared with bit for bit; float64 input in
float64, the oracle for gradients; float16 input in float32, with one cast back (Q4, Q5). Parameters are checked at
every call (Q7).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from backends.contract import (
    NAN_CODE,
    Gradients,
    Needs,
    Scaler,
    UnknownNameError,
    check_axis,
    check_like,
    check_noise,
    check_parameters,
    nearest,
    registered_function,
)

Array = np.ndarray

_silent = np.errstate(invalid="ignore")
"""NaN and infinity are ordinary input (Q6)."""

_COMPUTE_DTYPE = {np.float16: np.float32, np.float32: np.float32, np.float64: np.float64}


@_silent
def codes(x: Any, step: Any, lower: Any, upper: Any, *, axis: int | None = None) -> Array:
    """`rint(clip(x, lower, upper) / step)`, half to even: int32, shape of x (Q1-Q3).

    NaN has the code -2**31; infinities have those of the bounds. Raises as `forward`.

    >>> codes([-9.0, 0.25, 0.75, 0.8], step=0.5, lower=-1.0, upper=1.0)
    array([-2,  0,  2,  2], dtype=int32)
    """
    x, step, lower, upper, _ = _cast(np.asarray(x), step, lower, upper, axis)
    rounded = np.rint(_position(x, step, lower, upper))
    return np.where(np.isnan(rounded), NAN_CODE, rounded).astype(np.int32)


@_silent
def forward(x: Any, step: Any, lower: Any, upper: Any, *, axis: int | None = None, out: Array | None = None) -> Array:
    """`rint(clip(x, lower, upper) / step) * step`: shape and dtype of x, written to `out` where given (Q1-Q6).

    `step`, `lower`, `upper` are scalars or 1-D of length `x.shape[axis]`. NaN stays NaN.

    Raises `TypeError` unless x is float16, float32 or float64; `ValueError`, naming the argument, for parameters
    against Q6 or whose shape does not fit, and for an `out` of another shape or dtype.

    >>> forward([-9.0, 0.25, 0.75, 0.8], step=0.5, lower=-1.0, upper=1.0)
    array([-1.,  0.,  1.,  1.])
    """
    array = np.asarray(x)
    x, step, lower, upper, _ = _cast(array, step, lower, upper, axis)
    return _deliver(np.rint(_position(x, step, lower, upper)) * step, array, out)


@_silent
def backward(
    grad: Any,
    x: Any,
    step: Any,
    lower: Any,
    upper: Any,
    *,
    scaler: Scaler,
    axis: int | None = None,
    noise: Any = None,
    out: Array | None = None,
    needs: Needs = (True, True, True),
) -> Gradients:
    """The four gradients, with g = `grad`, v = clip(x) / step, e = v - rint(v), and s the scaler's multiplier (G1-G3):

        dx     = g * s           where lower <= x <= upper, else 0
        dstep  = sum(g * (rint(v) - s * v))
        dupper = sum of g * s    over x > upper
        dlower = sum of g * s    over x < lower

    `grad` and `noise` have the shape of x; dx has its dtype and goes to `out` where given. The sums have the shape of
    their parameter and the compute dtype; they accumulate in float64. A NaN in x gets dx = 0 and makes dstep NaN.
    Raises as `forward`, and `ValueError` for noise that is missing or unasked.

    >>> backward([1.0, 1.0, 1.0], [-9.0, 0.3, 1.0], 0.5, -1.0, 1.0, scaler=Scaler("ste"))
    Gradients(x=array([0., 1., 1.]), step=array(0.4), lower=array(1.), upper=array(0.))
    """
    array = np.asarray(x)
    x, step, lower, upper, axis = _cast(array, step, lower, upper, axis)
    g = np.asarray(grad, dtype=x.dtype)
    check_like("grad", g, x)
    v = _position(x, step, lower, upper)
    s = _multiplier(scaler, g, v - np.rint(v), noise)
    dx = np.where((lower <= x) & (x <= upper), g * s, 0)
    return Gradients(
        _deliver(dx, array, out),
        _sum_to(step, g * (np.rint(v) - s * v), axis) if needs[0] else None,
        _sum_to(lower, np.where(x < lower, g * s, 0), axis) if needs[1] else None,
        _sum_to(upper, np.where(x > upper, g * s, 0), axis) if needs[2] else None,
    )


def multiplier(scaler: Scaler, grad: Any, error: Any, noise: Any = None) -> Array:
    """The multiplier s of the table in `Scaler`: shape and dtype of grad; `error` is e, in grid units (S1, S4).

    Raises `TypeError` unless grad is of a float dtype, `ValueError` for noise that is missing or unasked.

    >>> multiplier(Scaler("pbgs", delta=0.1), [1.0, -1.0], [0.5, -0.25])
    array([1.05 , 1.025])
    """
    grad = np.asarray(grad)
    dtype = _compute_dtype(grad)
    s = _multiplier(scaler, grad.astype(dtype), np.asarray(error, dtype=dtype), noise)
    return np.asarray(s, dtype=grad.dtype)


def drawn_curve(name: str, error: Any, delta: float = 5e-3) -> Array:
    """The curve that the paper's Figure 2 draws for a scaler, times delta, over e in [-0.5, 0.5] (S1b).

    With u = 2e: ste 0, pbgs abs(u), ewgs u, acos sin(pi * u / 2), tanh tanh(4 * u), invtanh arctanh(u / 1.05) / 1.85.
    Schematic: neither the printed nor the normalised form, and used for Figure 2 alone. Those forms are shown beside
    it as `multiplier(...) - 1` for a positive gradient.

    Raises `UnknownNameError` (a `ValueError`) for a scaler that the figure does not draw.

    >>> drawn_curve("pbgs", [-0.5, 0.0, 0.25], delta=0.1)
    array([0.1 , 0.  , 0.05])
    """
    u = 2 * np.asarray(error, dtype=np.float64)
    curves = {
        "ste": lambda: np.zeros_like(u),
        "pbgs": lambda: np.abs(u),
        "ewgs": lambda: u,
        "acos": lambda: np.sin(np.pi * u / 2),
        "tanh": lambda: np.tanh(4 * u),
        "invtanh": lambda: np.arctanh(u / 1.05) / 1.85,
    }
    if name not in curves:
        raise UnknownNameError(f"no drawn curve of scaler {name!r}: {nearest(name, tuple(curves))}")
    return delta * curves[name]()


def _position(x: Array, step: Array, lower: Array, upper: Array) -> Array:
    """v = clip(x) / step: clip in real units, then a true division (Q1, Q3). NaN passes through both."""
    return np.minimum(np.maximum(x, lower), upper) / step


def _multiplier(scaler: Scaler, g: Array, e: Array, noise: Any) -> Array:
    """The scaler table, in the dtype of g and e."""
    noise = None if noise is None else np.asarray(noise, dtype=g.dtype)
    check_noise(scaler, noise, g.shape)
    delta, normalised = scaler.delta, scaler.form == "normalised"
    alpha: Any = scaler.alpha
    half = 0.5 if normalised else 1.0
    user = registered_function(scaler.name)
    if user:
        s = np.asarray(user(np, g, e, delta, alpha), dtype=g.dtype)
        check_like(f"the result of scaler {scaler.name!r}", s, g)
        return s
    match scaler.name:
        case "ste":
            return np.ones_like(g)
        case "pbgs":
            return 1 + delta * np.abs(e)
        case "ewgs":
            return 1 + delta * np.sign(g) * e
        case "acos":
            return 1 + delta * half * np.sin(np.pi * e)
        case "tanh":
            return 1 + delta * half * np.sign(g) * np.tanh(alpha * e)
        case "invtanh":
            at_threshold = 0.5 / math.atanh(alpha / 2) if normalised else 1.0
            return 1 + delta * at_threshold * np.sign(g) * np.arctanh(alpha * e)
        case "uniform_noise" | "gaussian_noise":
            return 1 + delta * noise
        case _:
            raise AssertionError(f"scaler {scaler.name!r} is promised by the contract and not written here")


def _compute_dtype(array: Array) -> type:
    try:
        return _COMPUTE_DTYPE[array.dtype.type]
    except KeyError:
        raise TypeError(f"expected float16, float32 or float64, got {array.dtype}") from None


def _cast(
    x: Array, step: Any, lower: Any, upper: Any, axis: int | None
) -> tuple[Array, Array, Array, Array, int | None]:
    """x, the parameters and the axis: checked, in the compute dtype, shaped to broadcast against x (Q5, Q6)."""
    dtype = _compute_dtype(x)
    check_parameters(step, lower, upper, dtype=dtype)
    step, lower, upper = (np.asarray(parameter, dtype=dtype) for parameter in (step, lower, upper))
    axis = check_axis(axis, x.shape, step=step.shape, lower=lower.shape, upper=upper.shape)
    along = [-1 if dimension == axis else 1 for dimension in range(x.ndim)]
    step, lower, upper = (p.reshape(along) if p.ndim else p for p in (step, lower, upper))
    return x.astype(dtype), step, lower, upper, axis


def _sum_to(parameter: Array, terms: Array, axis: int | None) -> Array:
    """Sum over all that share one value of the parameter, in float64: shape () or (channels,), dtype of terms (G3)."""
    shared = tuple(d for d in range(terms.ndim) if parameter.ndim == 0 or d != axis)
    return np.asarray(terms.sum(axis=shared, dtype=np.float64), dtype=terms.dtype)


def _deliver(result: Array, like: Array, out: Array | None) -> Array:
    """The result in the dtype of `like`, in `out` where given."""
    if out is None:
        return np.asarray(result, dtype=like.dtype)
    check_like("out", out, like)
    out[...] = result
    return out
