"""`fake_quantize` of tensors without data: what `torch.compile` and `torch.export` put into their graphs.

Imported by `backends.autograd` while a graph is traced, and not before: importing it imports Dynamo, which takes
seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backends import operator
from backends.contract import Scaler, check_noise, check_parameters
from backends.function import FakeQuantize, torch_backend


@torch.compiler.allow_in_graph  # Dynamo leaves the call whole; AOTAutograd runs it, as ordinary Python
def traced(
    x: Tensor,
    step: Any,
    lower: Any,
    upper: Any,
    noise: Tensor | None,
    axis: int | None,
    backend: str | None,
    *scaler: Any,
) -> Tensor:
    """`fake_quantize`; `scaler` is the scaler's fields. Raises where the shapes and numbers are wrong.

    Of `fused` the graph holds the operator, though Inductor fuses the operations of `eager` with their neighbours: a
    training step on two CPU cores takes 0.75 of the time (`benchmarks/`, "compiled training step"). An exported graph
    always does: traced operations would lose the gradients on the way. So does any graph on CUDA, where Inductor's
    division would be an approximation, against Q1.
    """
    module = torch_backend(backend, x, scaler[0])
    name = module.__name__.removeprefix("backends.")  # type: ignore[attr-defined]
    check_noise(Scaler(*scaler), noise, x.shape)
    parameters = _as_tensors(x, step, lower, upper)
    if name != "eager" or x.device.type == "cuda" or torch.compiler.is_exporting():
        return operator.fake_quantize(x, *parameters, noise, axis, name, *scaler)
    if axis is None:
        return traced(x[None], *parameters, noise if noise is None else noise[None], 0, backend, *scaler)[0]
    # The eager backend reads 0-d parameters on the CPU, to check them: what has no data must be 1-D.
    channels = (parameter.expand(x.shape[axis]) for parameter in parameters)
    return FakeQuantize.apply(x, *channels, noise, (Scaler(*scaler), axis, module))


def _as_tensors(x: Tensor, step: Any, lower: Any, upper: Any) -> list[Tensor]:
    """The parameters, numbers among them checked and made tensors in the compute dtype on the device of x."""
    parameters = {"step": step, "lower": lower, "upper": upper}
    numbers = {name: value for name, value in parameters.items() if not isinstance(value, Tensor)}
    dtype = operator.compute_dtype(x)
    check_parameters(**numbers, dtype=str(dtype).removeprefix("torch."))
    return [
        torch.full((), value, dtype=dtype, device=x.device) if name in numbers else value
        for name, value in parameters.items()
    ]
