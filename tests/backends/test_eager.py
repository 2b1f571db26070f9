"""What only the torch backend can get wrong: devices, synchronisation, bfloat16, autograd, memory layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from backends import Scaler, eager, reference
from backends.contract import SCALERS
from tests.backends.cases import assert_equal, no_cuda, plain
from tests.strategies import grid

STE = Scaler("ste")
FORMS = ("printed", "normalised")


class Divisions(TorchDispatchMode):
    """Records the devices of dividend and divisor of every division."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: list[tuple[Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.overloadpacket is torch.ops.aten.div:
            self.devices.append(tuple(getattr(argument, "device", "number") for argument in args))
        return func(*args, **(kwargs or {}))


class TestDevices:
    """The meta device holds no data: whatever reads a value, or mixes devices, fails on it."""

    @pytest.mark.parametrize("step", [0.1, torch.tensor(0.1), torch.tensor([0.1, 0.2, 0.3], device="meta")])
    def test_Q1_the_divisor_is_a_tensor_on_the_device_of_x(self, step: Any) -> None:
        """torch on CUDA turns a division by a number or a CPU scalar into a product with its reciprocal."""
        x = torch.empty(2, 3, device="meta")
        with Divisions() as divisions:
            eager.codes(x, step, -1.0, 1.0, axis=1)
            eager.forward(x, step, -1.0, 1.0, axis=1)
            eager.backward(x, x, step, -1.0, 1.0, scaler=STE, axis=1)
        assert divisions.devices == [(x.device, x.device)] * 3

    @pytest.mark.parametrize("scaler", [Scaler(name, form=form) for name in SCALERS for form in FORMS])
    def test_Q7_nothing_reads_the_device(self, scaler: Scaler) -> None:
        x = torch.empty(2, 3, device="meta")
        for step in (0.1, torch.tensor(0.1), torch.tensor(0.1, device="meta"), torch.empty(3, device="meta")):
            assert eager.codes(x, step, -1.0, 1.0, axis=1).dtype == torch.int32
            assert eager.forward(x, step, -1.0, 1.0, axis=1).device == x.device
            gradients = eager.backward(x, x, step, -1.0, 1.0, scaler=scaler, axis=1)
            assert [gradient.device for gradient in gradients] == [x.device] * 4

    @no_cuda
    def test_Q7_no_synchronisation_on_cuda(self, sync_is_an_error: None) -> None:
        x = torch.empty(2, 3, device="cuda")
        for step in (0.1, torch.tensor(0.1), torch.full((), 0.1, device="cuda"), torch.full((3,), 0.1, device="cuda")):
            eager.codes(x, step, -1.0, 1.0, axis=1)
            eager.forward(x, step, -1.0, 1.0, axis=1)
            eager.backward(x, x, step, -1.0, 1.0, scaler=Scaler("invtanh"), axis=1)

    @pytest.fixture
    def sync_is_an_error(self) -> Iterator[None]:
        torch.cuda.set_sync_debug_mode("error")
        yield
        torch.cuda.set_sync_debug_mode("default")

    def test_Q7_numbers_and_cpu_scalars_are_checked_at_every_call(self) -> None:
        x = torch.ones(3)
        for bad in (0.0, torch.tensor(0.0), torch.nn.Parameter(torch.tensor(0.0))):
            with pytest.raises(ValueError, match=r"step=0\.0"):
                eager.forward(x, bad, -1.0, 1.0)

    def test_Q7_tensors_are_checked_where_they_are_set(self) -> None:
        """One number per channel is not read here, so a bad one goes through, as inf or NaN."""
        assert eager.forward(torch.ones(1), torch.zeros(1), -1.0, 1.0, axis=0).isnan().all()

    @pytest.mark.parametrize("name", ["step", "lower", "upper"])
    def test_Q7_a_tensor_elsewhere_raises_instead_of_being_fetched(self, name: str) -> None:
        parameters = {"step": 0.5, "lower": -1.0, "upper": 1.5} | {name: torch.zeros(3, device="meta")}
        with pytest.raises(ValueError, match=f"{name} is on meta, expected the device of x, cpu"):
            eager.forward(torch.ones(3), **parameters, axis=0)


class TestBfloat16:
    SETTING = grid(5, signed=True, step=0.0123)

    def test_Q5_every_bfloat16_is_computed_in_float32_and_cast_once(self) -> None:
        x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
        wide = x.float().numpy()
        assert_equal(plain(eager.codes(x, *self.SETTING.parameters)), reference.codes(wide, *self.SETTING.parameters))
        values = eager.forward(x, *self.SETTING.parameters)
        assert values.dtype == torch.bfloat16
        expected = torch.from_numpy(reference.forward(wide, *self.SETTING.parameters)).bfloat16()
        assert_equal(plain(values.float()), plain(expected.float()))

    def test_Q5_bfloat16_gradients_are_computed_in_float32_and_cast_once(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x, g = (torch.randn(4096, generator=generator).bfloat16() for _ in range(2))
        scaler = Scaler("ewgs", delta=0.2)
        half = eager.backward(g, x, *self.SETTING.parameters, scaler=scaler)
        full = eager.backward(g.float(), x.float(), *self.SETTING.parameters, scaler=scaler)
        assert half.x.dtype == torch.bfloat16
        assert torch.equal(half.x, full.x.bfloat16())
        assert half[1:] == full[1:]

    def test_Q5_bfloat16_parameters_are_cast_up(self) -> None:
        step = torch.tensor([0.1, 0.3], dtype=torch.bfloat16)
        x = torch.linspace(-1, 1, 9).repeat(2, 1)
        assert torch.equal(eager.codes(x, step, -1.0, 1.0, axis=0), eager.codes(x, step.float(), -1.0, 1.0, axis=0))


class TestLayoutAndGraph:
    @pytest.mark.parametrize("axis", [None, 1])
    def test_values_and_dx_keep_channels_last(self, axis: int | None) -> None:
        x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
        step = 0.1 if axis is None else torch.tensor([0.1, 0.2, 0.3])
        gradients = eager.backward(x, x, step, -1.0, 1.0, scaler=STE, axis=axis)
        for result in (eager.forward(x, step, -1.0, 1.0, axis=axis), gradients.x):
            assert result.is_contiguous(memory_format=torch.channels_last)
        dense = eager.backward(x.contiguous(), x.contiguous(), step, -1.0, 1.0, scaler=STE, axis=axis)
        assert torch.equal(gradients.x, dense.x)

    def test_no_graph_is_recorded(self) -> None:
        """The gradients come from `backward`; those that autograd would find in these operations are others."""
        x, step = torch.ones(3, requires_grad=True), torch.nn.Parameter(torch.tensor(0.5))
        assert not eager.forward(x, step, -1.0, 1.5).requires_grad
        assert not eager.backward(x, x, step, -1.0, 1.5, scaler=Scaler("tanh")).x.requires_grad
        assert not eager.multiplier(Scaler("tanh"), x, x / 2).requires_grad

    def test_inputs_are_left_as_they_were(self) -> None:
        x, g = torch.tensor([-9.0, 0.3, 9.0]), torch.tensor([1.0, 2.0, 3.0])
        eager.backward(g, x, 0.5, -1.0, 1.5, scaler=Scaler("ewgs"))
        assert x.tolist() == [-9.0, np.float32(0.3), 9.0]
        assert g.tolist() == [1.0, 2.0, 3.0]
