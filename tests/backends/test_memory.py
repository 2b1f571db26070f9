"""G4: between forward and backward `x` alone is kept, and the fused backend makes nothing but its results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backends import Scaler
from backends.autograd import fake_quantize
from tests.benchmarks.race import peak_mib

ELEMENTS = 2**24
"""64 MiB of float32: from 32 MiB on, glibc gives freed memory back at once, so that the next peak is seen."""
MIB = ELEMENTS * 4 / 2**20
SLACK = 0.1
"""In arrays like x: sums of blocks, and what else a process does meanwhile."""


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_G4_bytes_saved_are_those_of_x_and_of_parameters_per_channel(
    backend: str, axis: int | None, dtype: torch.dtype
) -> None:
    x = torch.randn(16, 8).to(dtype).requires_grad_()
    parameters = [torch.full(() if axis is None else (8,), p, requires_grad=True) for p in (0.1, -0.8, 0.7)]
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fake_quantize(x, *parameters, scaler=Scaler("tanh"), axis=axis, backend=backend)
    kept = (x,) if axis is None else (x, *parameters)
    assert sum(saved.values()) == sum(tensor.untyped_storage().nbytes() for tensor in kept)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((ELEMENTS,), None), ((2**6, 2**18), 0), ((2**12, 2**12), 1)],
    ids=["one grid", "runs", "columns"],
)
def test_G4_peak_of_a_forward_and_backward_is_y_and_dx(shape: tuple[int, ...], axis: int | None) -> None:
    """Measured on the process; eager's temporaries show that the measure sees such things. With learned parameters."""
    x, g = torch.linspace(-1, 1, ELEMENTS).reshape(shape).requires_grad_(), torch.ones(shape)
    channels = () if axis is None else (shape[axis],)
    parameters = [torch.full(channels, value, requires_grad=True) for value in (0.1, -0.8, 0.7)]

    def peak(backend: str) -> float:
        def run() -> None:
            x.grad = None
            fake_quantize(x, *parameters, scaler=Scaler("ewgs"), axis=axis, backend=backend).backward(g)

        run()  # compiles what has to be
        x.grad = None
        measured = peak_mib(run)
        if measured is None:
            pytest.skip("no /proc/self/clear_refs here: the peak cannot be set back")
        return measured / MIB

    assert 2 - SLACK < peak("fused") < 2 + SLACK
    assert peak("eager") > 3
