"""The fused backend: one pass forward and one pass backward; Numba on the CPU, Triton on CUDA, by the device of x.

The four functions are those of the contract. It computes float32 and bfloat16 (on CUDA float16 too), and the scalers of
the paper: for other dtypes, for registered scalers and for other devices it names `eager`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor

from backends.contract import BackendUnavailableError, Gradients, Needs, Scaler

PACKAGES = {"cpu": ("numba", "llvmlite"), "cuda": ("triton",)}
"""Of each device type that it has kernels for, what they need; each has a module of its name."""


def codes(x: Tensor, step: Any, lower: Any, upper: Any, *, axis: int | None = None) -> Tensor:
    """`rint(clip(x, lower, upper) / step)`, half to even: int32, shape of x (Q1-Q3).

    >>> import torch
    >>> codes(torch.tensor([-9.0, 0.25, 0.75, 0.8]), step=0.5, lower=-1.0, upper=1.0)
    tensor([-2,  0,  2,  2], dtype=torch.int32)
    """
    return kernels(x.device.type).codes(x, step, lower, upper, axis=axis)


def forward(
    x: Tensor, step: Any, lower: Any, upper: Any, *, axis: int | None = None, out: Tensor | None = None
) -> Tensor:
    """`rint(clip(x, lower, upper) / step) * step`: shape, dtype and strides of x, in `out` where given (Q1-Q6).

    `out` may be x, or overlap it: the values then go by way of a new tensor.

    >>> import torch
    >>> forward(torch.tensor([-9.0, 0.25, 0.75, 0.8]), step=0.5, lower=-1.0, upper=1.0)
    tensor([-1.,  0.,  1.,  1.])
    """
    return kernels(x.device.type).forward(x, step, lower, upper, axis=axis, out=out)


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
    """The four gradients of the contract (G1-G3); `out` receives dx. Sums that are not needed cost nothing.

    `out` may be what is read, or overlap it: dx then goes by way of a new tensor.

    >>> import torch
    >>> grad, x = torch.ones(3), torch.tensor([-9.0, 0.3, 1.0])
    >>> backward(grad, x, 0.5, -1.0, 1.0, scaler=Scaler("ste"))
    Gradients(x=tensor([0., 1., 1.]), step=tensor(0.4000), lower=tensor(1.), upper=tensor(0.))
    """
    module = kernels(x.device.type)
    return module.backward(grad, x, step, lower, upper, scaler=scaler, axis=axis, noise=noise, out=out, needs=needs)


def multiplier(scaler: Scaler, grad: Tensor, error: Tensor, noise: Tensor | None = None) -> Tensor:
    """The multiplier s of the table in `Scaler`: shape and dtype of grad (S1, S4).

    >>> import torch
    >>> multiplier(Scaler("pbgs", delta=0.1), torch.tensor([1.0, -1.0]), torch.tensor([0.5, -0.25]))
    tensor([1.0500, 1.0250])
    """
    return kernels(grad.device.type).multiplier(scaler, grad, error, noise)


def overlap(a: Tensor, b: Tensor | None) -> bool:
    """Whether two tensors without gaps share memory."""
    return b is not None and a.data_ptr() < b.data_ptr() + b.nbytes and b.data_ptr() < a.data_ptr() + a.nbytes


@cache
def kernels(device: str) -> ModuleType:
    """The module that computes on this type of device, with the four functions; imported when first needed.

    Raises `BackendUnavailableError` for a device that has none, and where the package that they need is missing.
    """
    if device not in PACKAGES:
        message = f"backend 'fused' computes on {' and '.join(PACKAGES)}, not on {device}: ask for 'eager'"
        raise BackendUnavailableError(message)
    try:
        return import_module(f"backends.fused.{device}")
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES[device]:
            raise
        message = f"backend 'fused' on {device} needs {error.name}, which is not installed: ask for 'eager'"
        raise BackendUnavailableError(message) from None
