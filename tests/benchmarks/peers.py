"""The contenders: our backends, and what others offer for the same operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

import backends
from backends import Scaler, eager
from backends.autograd import fake_quantize
from tests.benchmarks.race import Contender

BITS, Q_MIN, Q_MAX = 4, -8, 7
STEP = 0.1
EWGS, STE = Scaler("ewgs"), Scaler("ste")
NO_BREVITAS = None if find_spec("brevitas") else "brevitas is not installed: pip install -e '.[peers]'"


@dataclass(frozen=True)
class Data:
    """x and a gradient, about one value in twenty beyond the 4-bit range; `axis` makes the grid one per channel."""

    x: Tensor
    g: Tensor
    axis: int | None = None

    @classmethod
    def normal(cls, *shape: int, dtype: torch.dtype = torch.float32, axis: int | None = None, **layout: Any) -> Data:
        generator = torch.Generator().manual_seed(0)
        x, g = (torch.randn(shape, generator=generator).to(dtype).to(**layout) for _ in range(2))
        return cls(x.mul_(0.4), g, axis)

    @property
    def step(self) -> Tensor:
        return torch.full(() if self.axis is None else (self.x.shape[self.axis],), STEP, device=self.x.device)

    @property
    def parameters(self) -> list[Any]:
        """`step, lower, upper`: numbers, or tensors with one per channel."""
        step = STEP if self.axis is None else self.step
        return [step, Q_MIN * step, Q_MAX * step]


def compiled(function: Callable) -> Callable:
    """For one shape, nothing carried over from another."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


# Outputs given by the caller: the kernels themselves


def given(data: Data) -> dict[str, dict[str, Contender]]:
    """Of forward, backward and both in turn: contenders that write to memory that is there already."""
    x, g, y, dx = data.x, data.g, torch.empty_like(data.x), torch.empty_like(data.x)
    parameters, axis = data.parameters, data.axis

    def forward(module: Any) -> Contender:
        return lambda: module.forward(x, *parameters, axis=axis, out=y)

    def backward(module: Any, scaler: Scaler = EWGS) -> Contender:
        return lambda: module.backward(g, x, *parameters, scaler=scaler, axis=axis, out=dx)

    def both(module: Any) -> Contender:
        one, other = forward(module), backward(module)
        return lambda: (one(), other())

    fused: Any = backends.get("fused", x.device)
    in_graph = compiled(_both_in_graph)
    theirs = torch_static(data)
    return {
        "forward": {
            "copy": lambda: y.copy_(x),
            "fused": forward(fused),
            "eager": forward(eager),
        },
        "backward": {
            "copy": lambda: y.copy_(x),
            "torch.add": lambda: torch.add(x, g, out=y),
            "fused": backward(fused),
            "fused, ste": backward(fused, STE),
            "eager": backward(eager),
        },
        "forward, backward": {
            "copy": lambda: y.copy_(x),
            "fused": both(fused),
            "eager": both(eager),
            "torch.compile": lambda: in_graph(x, g, y, dx, *parameters, axis),
            "torch": theirs,
        },
    }


def _both_in_graph(x: Tensor, g: Tensor, y: Tensor, dx: Tensor, step: Any, lower: Any, upper: Any, axis: Any) -> Any:
    values, grad, *sums = _both(x, g, step, lower, upper, axis)
    y.copy_(values)
    dx.copy_(grad)
    return sums


@torch.compiler.allow_in_graph
def _both(x: Tensor, g: Tensor, step: Any, lower: Any, upper: Any, axis: int | None) -> tuple[Tensor, ...]:
    gradients = eager.backward(g, x, step, lower, upper, scaler=EWGS, axis=axis)
    return eager.forward(x, step, lower, upper, axis=axis), *gradients


# Through autograd, as training does it


def static(data: Data) -> dict[str, Contender]:
    """A fixed grid: the gradient of x alone."""
    x, axis, parameters = data.x.detach().requires_grad_(), data.axis, data.parameters

    def ours(function: Callable, backend: str) -> Contender:
        return _pass(x, data.g, lambda: function(x, *parameters, scaler=EWGS, axis=axis, backend=backend))

    return _with_brevitas(
        {
            "copy": _copy(data),
            "fused": ours(fake_quantize, "fused"),
            "eager": ours(fake_quantize, "eager"),
            "torch.compile": ours(compiled(fake_quantize), "eager"),
            "torch": torch_static(data),
        },
        data,
        learned=False,
    )


def learned(data: Data) -> dict[str, Contender]:
    """A grid that is learned: gradients of step, lower and upper too (torch: of scale and zero point)."""
    x, axis = data.x.detach().requires_grad_(), data.axis
    parameters = [(factor * data.step).requires_grad_() for factor in (1, Q_MIN, Q_MAX)]

    def ours(function: Callable, backend: str) -> Contender:
        return _pass(x, data.g, lambda: function(x, *parameters, scaler=EWGS, axis=axis, backend=backend), *parameters)

    return _with_brevitas(
        {
            "copy": _copy(data),
            "fused": ours(fake_quantize, "fused"),
            "eager": ours(fake_quantize, "eager"),
            "torch.compile": ours(compiled(fake_quantize), "eager"),
            "torch": torch_learnable(data),
        },
        data,
        learned=True,
    )


def torch_static(data: Data) -> Contender:
    x, axis = data.x.detach().requires_grad_(), data.axis
    if axis is None:
        return _pass(x, data.g, lambda: torch.fake_quantize_per_tensor_affine(x, STEP, 0, Q_MIN, Q_MAX))
    step, zero = data.step, torch.zeros(x.shape[axis], dtype=torch.int32)
    return _pass(x, data.g, lambda: torch.fake_quantize_per_channel_affine(x, step, zero, axis, Q_MIN, Q_MAX))


def torch_learnable(data: Data) -> Contender:
    x, axis = data.x.detach().requires_grad_(), data.axis
    step = data.step.reshape(-1).requires_grad_()
    zero = torch.zeros_like(step).requires_grad_()
    if axis is None:
        theirs = torch._fake_quantize_learnable_per_tensor_affine
        return _pass(x, data.g, lambda: theirs(x, step, zero, Q_MIN, Q_MAX, 1.0), step, zero)
    per_channel = torch._fake_quantize_learnable_per_channel_affine
    return _pass(x, data.g, lambda: per_channel(x, step, zero, axis, Q_MIN, Q_MAX, 1.0), step, zero)


def _with_brevitas(contenders: dict[str, Contender], data: Data, learned: bool) -> dict[str, Contender]:
    if NO_BREVITAS:
        return contenders
    from brevitas.core.quant import IntQuant

    x = data.x.detach().requires_grad_()
    along = [-1 if dimension == data.axis else 1 for dimension in range(x.ndim)]
    step = (data.step if data.axis is None else data.step.reshape(along)).requires_grad_(learned)
    zero, bits, quant = (
        torch.tensor(0.0),
        torch.tensor(float(BITS)),
        IntQuant(narrow_range=False, signed=True, input_view_impl=torch.nn.Identity()),
    )
    return contenders | {"brevitas": _pass(x, data.g, lambda: quant(step, zero, bits, x), step)}


def _pass(x: Tensor, g: Tensor, forward: Callable[[], Tensor], *parameters: Tensor) -> Contender:
    """Forward and backward; gradients are dropped first, as `zero_grad` does."""

    def run() -> None:
        for leaf in (x, *parameters):
            leaf.grad = None
        forward().backward(g)

    return run


def _copy(data: Data) -> Contender:
    out = torch.empty_like(data.x)
    return lambda: out.copy_(data.x)
