"""What only the fused kernels on the CPU can get wrong: which loop ran, layouts, threads, processes, cache, curves."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import threading as python_threads
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numba.core.caching
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from backends import BackendUnavailableError, Scaler, contract, eager, fused, reference
from backends.contract import NOISE_CONTROLS, SCALERS
from backends.fused import cpu, curves, loops, threads
from tests.backends import tolerances
from tests.backends.cases import assert_equal, plain
from tests.strategies import grid

STE, EWGS, NOISY = Scaler("ste"), Scaler("ewgs", delta=0.2), Scaler("uniform_noise", delta=0.2)
DTYPES = {torch.float32: np.float32, torch.bfloat16: np.uint16}
LARGE = 2 * threads.FEWEST_PER_THREAD


def data(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """x, spread over -1 .. 1 and beyond, and a gradient of y."""
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(*shape, generator=generator).to(dtype) for _ in range(2))
    return x, g


def same_bits(ours: Any, theirs: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


OTHER_CURVES = [
    ("tanh", 1e3, 0.2, loops.TANH),
    ("tanh", 20.0, 2.0**40, loops.RATIONAL[4]),
    ("tanh", 25.0, 2.0**40, loops.RATIONAL[5]),
    ("tanh", 40.0, 2.0**40, loops.RATIONAL[6]),
    ("invtanh", 1.9999998, 0.2, loops.INVTANH),
]
"""Settings of the loops that no usual scaler needs: no quotient is good enough, or none of a low degree."""


class TestWhichPathRan:
    @pytest.fixture
    def ran(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
        names: list[tuple] = []
        loop = loops.loop

        def recorded(*name: Any) -> loops.Loop:
            names.append(name)
            return loop(*name)

        monkeypatch.setattr(loops, "loop", recorded)
        return names

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("axis", "spread"), [(None, False), (0, False), (1, True)])
    def test_codes_and_values(self, ran: list[tuple], dtype: torch.dtype, axis: int | None, spread: bool) -> None:
        x, _ = data(4, 3, dtype=dtype)
        step = 0.1 if axis is None else torch.full((x.shape[axis],), 0.1)
        fused.codes(x, step, -1.0, 1.0, axis=axis)
        fused.forward(x, step, -1.0, 1.0, axis=axis)
        storage = DTYPES[dtype]
        assert ran == [("elementwise", storage, np.int32, spread), ("elementwise", storage, storage, spread)]

    @pytest.mark.parametrize("name", [*SCALERS, *NOISE_CONTROLS])
    def test_backward_and_multiplier(self, ran: list[tuple], name: str) -> None:
        x, g = data(4, 3)
        noise = g if name in NOISE_CONTROLS else None
        fused.backward(g, x, 0.1, -1.0, 1.0, scaler=Scaler(name), noise=noise)
        fused.backward(g, x, torch.full((3,), 0.1), -1.0, 1.0, scaler=Scaler(name), axis=1, noise=noise)
        fused.multiplier(Scaler(name), g, x, noise)
        kind = {"tanh": loops.RATIONAL[2], "invtanh": loops.RATIONAL[3]}.get(name) or getattr(
            loops, "RANDOM" if noise is not None else name.upper()
        )
        assert ran == [
            ("backward", np.float32, kind, loops.ALL_SUMS),  # of one block, whose sums are the result
            ("backward_by_column", np.float32, kind, loops.ALL_SUMS),
            ("fold",),
            ("multipliers", kind),
        ]

    @pytest.mark.parametrize(("name", "alpha", "delta", "kind"), OTHER_CURVES)
    def test_other_constants_have_other_loops(
        self, ran: list[tuple], name: str, alpha: float, delta: float, kind: int
    ) -> None:
        """With a power of two for a step e is exact, and dx is g times the multiplier."""
        (x, g), scaler = data(300, 3), Scaler(name, delta=delta, alpha=alpha)
        v = x.clamp(-1, 1) / 0.25
        s = fused.multiplier(scaler, g, v - v.round())
        expected = torch.where(x.abs() <= 1, g * s, 0.0)
        steps = torch.full((3,), 0.25)
        for step, axis in ((0.25, None), (steps, 1)):
            found = fused.backward(g, x, step, -1.0, 1.0, scaler=scaler, axis=axis)
            torch.testing.assert_close(found.x, expected, rtol=4 * tolerances.U, atol=0)
        loops_of = [("backward", np.float32, kind, loops.ALL_SUMS), ("backward_by_column", np.float32, kind, 7)]
        assert ran == [("multipliers", kind), *loops_of, ("fold",)]

    def test_bfloat16_has_its_own_loops(self, ran: list[tuple]) -> None:
        x, g = data(4, 3, dtype=torch.bfloat16)
        fused.backward(g, x, 0.1, -1.0, 1.0, scaler=STE)
        fused.backward(g, x, torch.full((3,), 0.1), -1.0, 1.0, scaler=STE, axis=1)
        assert [name for name in ran if name != ("fold",)] == [
            ("backward", np.uint16, loops.STE, loops.ALL_SUMS),
            ("backward_by_column", np.uint16, loops.STE, loops.ALL_SUMS),
        ]

    @pytest.mark.parametrize(
        ("needs", "sums"),
        [((False, False, False), 0), ((False, False, True), loops.UPPER_SUM), ((True, True, True), loops.ALL_SUMS)],
    )
    def test_nothing_is_added_up_that_is_not_needed(self, ran: list[tuple], needs: tuple, sums: int) -> None:
        x, g = data(4, 3)
        fused.backward(g, x, 0.1, -1.0, 1.0, scaler=EWGS, needs=needs)
        fused.backward(g, x, torch.full((3,), 0.1), -1.0, 1.0, scaler=EWGS, axis=1, needs=needs)
        loop, by_column = ((name, np.float32, loops.EWGS, sums) for name in ("backward", "backward_by_column"))
        assert ran == [loop, by_column, *[("fold",)] * bool(sums)]


@pytest.mark.parametrize(("kind", "sums"), [(loops.STE, loops.UPPER_SUM), (loops.EWGS, loops.ALL_SUMS)])
def test_backward_loops_are_made_of_vectors(kind: int, sums: int) -> None:
    """What a loop of so few numbers becomes otherwise, unrolled, takes four times as long."""
    compiled = numba.cfunc(loops._SIGNATURE, **loops._OPTIONS)(loops._backward(np.float32, kind, sums))
    packed = re.findall(r"fcmp [a-z ]+ <(\d+) x float>", compiled.inspect_llvm())
    assert max(map(int, packed), default=1) >= 4


class TestDeclines:
    """What it leaves to eager, it says; by name nothing else steps in."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
    def test_other_float_dtypes(self, dtype: torch.dtype) -> None:
        x = torch.ones(3, dtype=dtype)
        calls: list[Callable] = [
            lambda: fused.codes(x, 0.5, -1.0, 1.0),
            lambda: fused.forward(x, 0.5, -1.0, 1.0),
            lambda: fused.backward(x, x, 0.5, -1.0, 1.0, scaler=STE),
            lambda: fused.multiplier(STE, x, x),
        ]
        for call in calls:
            with pytest.raises(BackendUnavailableError, match=f"float32 and bfloat16, not {dtype}: ask for 'eager'"):
                call()

    def test_registered_scalers(self) -> None:
        contract.register_scaler("flat")(lambda xp, grad, error, delta, alpha: xp.ones_like(grad))
        try:
            x = torch.ones(3)
            for call in (
                lambda: fused.backward(x, x, 0.5, -1.0, 1.0, scaler=Scaler("flat")),
                lambda: fused.multiplier(Scaler("flat"), x, x),
            ):
                with pytest.raises(BackendUnavailableError, match="registered scaler 'flat': ask for 'eager'"):
                    call()
        finally:
            contract.unregister_scaler("flat")

    def test_other_devices(self) -> None:
        x = torch.ones(3, device="meta")
        with pytest.raises(BackendUnavailableError, match="cpu and cuda, not on meta: ask for 'eager'"):
            fused.forward(x, 0.5, -1.0, 1.0)

    @pytest.mark.parametrize("shape", [(), (3,)])
    def test_parameters_on_another_device(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="on meta, expected the device of x, cpu"):
            fused.forward(torch.ones(3), torch.ones(shape, device="meta"), -1.0, 1.0, axis=0)

    def test_anything_on_another_device(self) -> None:
        """Its address would be taken for one of this memory."""
        x, away = torch.ones(3), torch.ones(3, device="meta")
        noisy = Scaler("uniform_noise")
        calls: dict[str, Callable] = {
            "out": lambda: fused.forward(x, 0.5, -1.0, 1.0, out=away),
            "grad": lambda: fused.backward(away, x, 0.5, -1.0, 1.0, scaler=STE),
            "noise": lambda: fused.backward(x, x, 0.5, -1.0, 1.0, scaler=noisy, noise=away),
            "error": lambda: fused.multiplier(STE, x, away),
        }
        for name, call in calls.items():
            with pytest.raises(ValueError, match=f"{name} is on meta, expected the device of x, cpu"):
                call()


class TestBfloat16:
    SETTING = grid(5, signed=True, step=0.0123)

    @pytest.mark.parametrize("axis", [None, 1], ids=["per_tensor", "by_column"])
    def test_Q5_every_bfloat16_is_computed_in_float32_and_cast_once(self, axis: int | None) -> None:
        x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).reshape(2**8, 2**8)
        wide, parameters = x.float().numpy(), list(self.SETTING.parameters)
        step: Any = parameters[0]
        if axis is not None:
            step = np.full(2**8, step, np.float32)
            parameters[0] = torch.from_numpy(step)
        expected = (step, *parameters[1:])
        assert_equal(plain(fused.codes(x, *parameters, axis=axis)), reference.codes(wide, *expected, axis=axis))
        values = fused.forward(x, *parameters, axis=axis)
        assert values.dtype == torch.bfloat16
        cast_once = torch.from_numpy(reference.forward(wide, *expected, axis=axis)).bfloat16()
        assert_equal(plain(values.float()), plain(cast_once.float()))

    @pytest.mark.parametrize("step", [1 + 2.0**-8, 1 + 3 * 2.0**-8], ids=["down", "up"])
    def test_Q5_rounding_is_half_to_even_and_nan_stays_nan(self, step: float) -> None:
        """Steps that are no bfloat16, so that every value is rounded on its way out, ties among them down or up."""
        x = torch.tensor([1.0, 2.0, 3.0, 5.0, math.inf, math.nan, -math.nan]).bfloat16()
        expected = (x.float().clamp(max=4).div(step).round() * step).bfloat16()
        assert torch.equal(fused.forward(x, step, -4.0, 4.0).nan_to_num(9), expected.nan_to_num(9))

    @pytest.mark.parametrize("axis", [None, 1], ids=["per_tensor", "by_column"])
    def test_Q5_gradients_are_computed_in_float32_and_cast_once(self, axis: int | None) -> None:
        x, g = data(700, 3, dtype=torch.bfloat16)
        step = 0.3 if axis is None else torch.tensor([0.2, 0.3, 0.4])
        half = fused.backward(g, x, step, -0.9, 0.9, scaler=EWGS, axis=axis)
        full = fused.backward(g.float(), x.float(), step, -0.9, 0.9, scaler=EWGS, axis=axis)
        assert half.x.dtype == torch.bfloat16
        assert same_bits(half, full._replace(x=full.x.bfloat16()))

    def test_a_gradient_of_another_dtype_is_not_rounded_first(self) -> None:
        x, g = data(700)
        narrow = x.bfloat16()
        mixed = fused.backward(g, narrow, 0.3, -0.9, 0.9, scaler=EWGS)
        full = fused.backward(g, narrow.float(), 0.3, -0.9, 0.9, scaler=EWGS)
        assert same_bits(mixed, full._replace(x=full.x.bfloat16()))


class Operations(TorchDispatchMode):
    """Records the torch operations that a call makes on tensors of at least this many elements."""

    def __init__(self, fewest: int = 0) -> None:
        super().__init__()
        self.fewest = fewest
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor) or result.numel() >= self.fewest:
            self.names.append(str(func.overloadpacket).removeprefix("aten."))
        return result


LAYOUTS = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "transposed": lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
class TestLayouts:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_nothing_is_copied_and_strides_stay(self, layout: Callable, dtype: torch.dtype) -> None:
        x, g = (layout(t) for t in data(2, 3, 4, 5, dtype=dtype))
        with Operations() as operations:
            codes = fused.codes(x, 0.1, -1.0, 1.0)
            y = fused.forward(x, 0.1, -1.0, 1.0)
            gradients = fused.backward(g, x, 0.1, -1.0, 1.0, scaler=EWGS)
        assert set(operations.names) == {"empty_like", "empty", "unbind"}
        assert {t.stride() for t in (codes, y, gradients.x)} == {x.stride()}

    @pytest.mark.parametrize("axis", [0, 1, 2, 3])
    def test_per_channel_too(self, layout: Callable, axis: int) -> None:
        """Twice: with few elements, and with more than one block. Only grids are laid out anew."""
        for shape in ((2, 3, 4, 5), (3, 17, 80, 70)):
            x, g = (layout(t) for t in data(*shape))
            step = torch.linspace(0.1, 0.5, shape[axis])
            with Operations(fewest=x.numel()) as operations:
                y = fused.forward(x, step, -1.0, 1.0, axis=axis)
                gradients = fused.backward(g, x, step, -1.0, 1.0, scaler=EWGS, axis=axis)
            assert x.numel() < 1000 or set(operations.names) <= {"empty_like"}
            assert y.stride() == gradients.x.stride() == x.stride()
            assert torch.equal(y, eager.forward(x, step, -1.0, 1.0, axis=axis))
            expected = eager.backward(g.double(), x.double(), step.double(), -1.0, 1.0, scaler=EWGS, axis=axis)
            for ours, theirs in zip(gradients, expected, strict=True):
                assert torch.allclose(ours.double(), theirs, rtol=1e-4, atol=1e-4 * x.numel() ** 0.5)


@pytest.mark.parametrize("axis", [None, 1])
def test_a_part_of_a_tensor_gets_the_strides_that_torch_gives_it(axis: int | None) -> None:
    """Half of the channels, in channels-last: what is copied to lie without gaps keeps its order."""
    x, g = (t.to(memory_format=torch.channels_last).chunk(2, 1)[0] for t in data(2, 6, 4, 5))
    step = 0.1 if axis is None else torch.linspace(0.1, 0.3, 3)
    gradients = fused.backward(g, x, step, -1.0, 1.0, scaler=EWGS, axis=axis)
    found = (fused.codes(x, step, -1.0, 1.0, axis=axis), fused.forward(x, step, -1.0, 1.0, axis=axis), gradients.x)
    assert {t.stride() for t in found} == {torch.empty_like(x).stride()}
    assert torch.equal(found[1], eager.forward(x, step, -1.0, 1.0, axis=axis))
    assert torch.equal(gradients.x, eager.backward(g, x, step, -1.0, 1.0, scaler=EWGS, axis=axis).x)


@pytest.mark.parametrize(("shape", "axis"), [((4099,), None), ((700, 3), 1), ((3, 40_001), 0)])
def test_nothing_beyond_the_tensor_is_read_or_written(shape: tuple[int, ...], axis: int | None) -> None:
    n, beside = math.prod(shape), 1024
    around = [torch.full((n + 2 * beside,), math.nan) for _ in range(4)]
    x, g, y, dx = (whole[beside:-beside].view(shape) for whole in around)
    x.fill_(0.25)
    g.fill_(1.0)
    step = 0.5 if axis is None else torch.full((shape[axis],), 0.5)
    fused.forward(x, step, -1.0, 1.0, axis=axis, out=y)
    gradients = fused.backward(g, x, step, -1.0, 1.0, scaler=STE, axis=axis, out=dx)
    assert not any(t.isnan().any() for t in (y, *gradients))
    assert all(whole.isnan().sum() == 2 * beside for whole in around)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "axis"), [((300,), None), ((40, 3), 1), ((3, 400), 0)])
def test_torchs_default_dtype_and_device_change_nothing(
    default: torch.dtype, shape: tuple[int, ...], axis: int | None
) -> None:
    """Memory for sums is float32 and on the CPU, whatever `torch.empty` would make."""
    x, g = data(*shape)
    step = torch.tensor(0.1) if axis is None else torch.full((shape[axis],), 0.1)
    expected = fused.backward(g, x, step, -1.0, 1.0, scaler=EWGS, axis=axis)
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(default)
        found = fused.backward(g, x, step, -1.0, 1.0, scaler=EWGS, axis=axis)
        with torch.device("meta"):
            elsewhere = fused.backward(g, x, step, -1.0, 1.0, scaler=EWGS, axis=axis)
    finally:
        torch.set_default_dtype(usual)
    assert same_bits(found, expected)
    assert same_bits(elsewhere, expected)


def test_a_view_that_turns_signs_is_read_as_it_is_seen() -> None:
    """As the imaginary part of a conjugate is one. Of `out` too."""
    x, g = data(100)
    turned, back, out = (torch._neg_view(-t) for t in (x, g, x))
    assert turned.is_neg()
    assert torch.equal(fused.forward(turned, 0.1, -1.0, 1.0), fused.forward(x, 0.1, -1.0, 1.0))
    assert torch.equal(fused.forward(x, 0.1, -1.0, 1.0, out=out), fused.forward(x, 0.1, -1.0, 1.0))
    for noise, own in ((None, EWGS), (g, NOISY)):
        turned_noise = None if noise is None else back
        expected = fused.backward(g, x, 0.1, -1.0, 1.0, scaler=own, noise=noise)
        assert same_bits(fused.backward(back, turned, 0.1, -1.0, 1.0, scaler=own, noise=turned_noise), expected)
        found = fused.multiplier(own, back, turned / 10, turned_noise), fused.multiplier(own, g, x / 10, noise)
        assert torch.equal(*found)
    assert torch.equal(fused.multiplier(EWGS, g, turned), fused.multiplier(EWGS, g, x))
    assert fused.codes(torch._neg_view(torch.empty(0, 3)), torch.ones(3), -1.0, 1.0, axis=1).shape == (0, 3)


class TestOut:
    def test_is_written_in_place_whatever_its_layout(self) -> None:
        x, g = data(2, 3, 4, 5)
        for layout in LAYOUTS.values():
            out = layout(torch.empty_like(x))
            version = out._version
            assert fused.forward(x, 0.1, -1.0, 1.0, out=out) is out
            assert torch.equal(out, eager.forward(x, 0.1, -1.0, 1.0))
            assert fused.backward(g, x, 0.1, -1.0, 1.0, scaler=EWGS, out=out).x is out
            assert torch.equal(out, fused.backward(g, x, 0.1, -1.0, 1.0, scaler=EWGS).x)
            assert out._version >= version + 2

    @pytest.mark.parametrize("shift", [0, 1])
    def test_may_be_x_itself_or_overlap_it(self, shift: int) -> None:
        memory, _ = data(1001)
        x, out = memory[:1000], memory[shift : 1000 + shift]
        expected = eager.forward(x, 0.1, -1.0, 1.0)
        assert torch.equal(fused.forward(x, 0.1, -1.0, 1.0, out=out), expected)

    @pytest.mark.parametrize("shift", [0, 1])
    def test_may_be_what_the_backward_pass_reads_or_overlap_it(self, shift: int) -> None:
        (x, g), noise = data(1000), torch.linspace(-1, 1, 1000)
        expected = fused.backward(g, x, 0.1, -1.0, 1.0, scaler=NOISY, noise=noise).x
        for read in range(3):
            given = [x, g, noise]
            memory = torch.cat([given[read], torch.zeros(1)])
            given[read], out = memory[:1000], memory[shift : 1000 + shift]
            found = fused.backward(given[1], given[0], 0.1, -1.0, 1.0, scaler=NOISY, noise=given[2], out=out)
            assert found.x is out
            assert torch.equal(out, expected)

    def test_receives_dx_of_a_gradient_of_another_dtype(self) -> None:
        x, g = data(10)
        out = torch.empty(10, dtype=torch.bfloat16)
        assert fused.backward(g, x.bfloat16(), 0.1, -1.0, 1.0, scaler=STE, out=out).x is out


@pytest.mark.parametrize("name", ["step", "lower", "upper"])
@pytest.mark.parametrize("factors", [(1.0,), (0.8, 1.0, 1.3)], ids=["a tensor of one number", "per channel"])
def test_one_parameter_alone_may_be_a_tensor(name: str, factors: tuple[float, ...]) -> None:
    x, _ = data(4, 3, 5)
    numbers = {"step": 0.1, "lower": -0.5, "upper": 0.8}
    tensor = torch.tensor(factors) * numbers[name]
    given: dict[str, Any] = numbers | {name: tensor if len(factors) > 1 else tensor[0]}
    axis = 1 if len(factors) > 1 else None
    assert torch.equal(fused.forward(x, **given, axis=axis), eager.forward(x, **given, axis=axis))


@pytest.mark.parametrize("elements", [10, 2 * cpu.BLOCK], ids=["one block", "folded"])
def test_sums_of_one_grid_are_three_numbers_and_nothing_behind_them(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (x, g), memory, empty = data(elements), torch.full((12,), 7.0), cpu._empty
    monkeypatch.setattr(cpu, "_empty", lambda n, dtype: memory[:3] if dtype == torch.float32 else empty(n, dtype))
    fused.backward(g, x, 0.1, -1.0, 1.0, scaler=EWGS)
    assert (memory != 7).tolist() == [True] * 3 + [False] * 9


class TestDivision:
    """How elements [outer, channels, inner] are divided among grids and blocks."""

    @pytest.mark.parametrize(
        ("outer", "channels", "inner", "expected"),
        [
            (2, 2, cpu.SHORTEST_RUN - 1, True),
            (2, 2, cpu.SHORTEST_RUN, False),
            (1, 2, 1, False),
            (2, 1, 1, False),
            (0, 2, 2, False),
            (2, 2, 0, False),
        ],
    )
    def test_short_runs_of_several_channels_in_several_rows_are_spread(
        self, outer: int, channels: int, inner: int, expected: bool
    ) -> None:
        assert cpu._split(outer, channels, inner).spread == expected

    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            # columns, length, block, blocks of a length, blocks, claim, sums before a channel, channels, sums behind it
            ((1, 1, 100_000), (1, 100_000, 16384, 7, 7, 1, 1, 1, 7)),
            ((1, 1, 2**20), (1, 2**20, 16384, 64, 64, 1, 1, 1, 64)),
            ((1, 1, 700 * 2**14), (1, 700 * 2**14, 16384, 700, 700, 2, 1, 1, 700)),
            ((1, 1, 2**24), (1, 2**24, 16384, 1024, 1024, 4, 1, 1, 1024)),
            ((8, 3, 20_000), (3, 20_000, 16384, 2, 48, 1, 8, 3, 2)),
            ((8, 3, 1_000), (3, 1_000, 16384, 1, 24, 16, 8, 3, 1)),
            ((2, 4, 2), (16, 16, 16384, 1, 1, 1024, 2, 4, 2)),
            ((1_000, 16, 9), (288, 144_000, 288 * 57, 9, 9, 1, 18, 16, 9)),
            ((2**20, 16, 1), (256, 2**24, 256 * 1024, 64, 64, 1, 1024, 16, 1)),
        ],
    )
    def test_by_hand(self, shape: tuple[int, int, int], expected: tuple[int, ...]) -> None:
        """Blocks have 16384 elements or a little more, but of rows there are no more than 64 of them. Of many blocks a
        256th is taken at once, and of short ones as many as have 16384 elements."""
        split = cpu._split(*shape)
        assert tuple(np.frombuffer(split.fields, np.int64)) == expected
        columns, *_, before, channels, behind = expected
        assert split.partial == 3 * before * channels * behind
        assert (split.repeats, split.blocks) == (columns // (shape[1] * shape[2]) if split.spread else 1, expected[4])


@pytest.mark.usefixtures("two_threads")
class TestThreads:
    @pytest.fixture
    def teams(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Sizes of the teams that were asked for."""
        sizes: list[int] = []
        enter = threads._enter_team
        if enter is None:
            pytest.skip("no OpenMP runtime here: loops run on the calling thread")

        def recorded(function: int, job: int, count: int, flags: int) -> None:
            sizes.append(count)
            enter(function, job, count, flags)

        monkeypatch.setattr(threads, "_enter_team", recorded)
        return sizes

    def test_a_large_tensor_gets_torch_s_threads_and_a_small_one_none(self, teams: list[int]) -> None:
        fused.forward(torch.zeros(LARGE), 0.1, -1.0, 1.0)
        assert teams == [2]
        fused.forward(torch.zeros(LARGE - 1), 0.1, -1.0, 1.0)
        assert teams == [2]

    def test_no_more_threads_than_the_elements_are_worth(self, teams: list[int]) -> None:
        torch.set_num_threads(4)
        fused.forward(torch.zeros(3 * threads.FEWEST_PER_THREAD), 0.1, -1.0, 1.0)
        assert teams == [3]

    def test_threads_share_the_multipliers(self, teams: list[int]) -> None:
        x, g = data(LARGE)
        expected = eager.multiplier(EWGS, g, x / 10)
        assert torch.allclose(fused.multiplier(EWGS, g, x / 10), expected)
        assert teams == [2]

    def test_one_thread_of_torch_is_one_thread_here(self, teams: list[int]) -> None:
        torch.set_num_threads(1)
        fused.forward(torch.zeros(LARGE), 0.1, -1.0, 1.0)
        assert teams == []

    @pytest.mark.parametrize(("shape", "axis"), [((300_001,), None), ((40, 20, 1001), 1), ((4001, 67), 1)])
    def test_results_do_not_depend_on_how_many(
        self, teams: list[int], shape: tuple[int, ...], axis: int | None
    ) -> None:
        x, g = data(*shape)
        step = 0.1 if axis is None else torch.linspace(0.1, 0.5, shape[axis])

        def run() -> list[Tensor]:
            y = fused.forward(x, step, -1.0, 1.0, axis=axis)
            return [y, *fused.backward(g, x, step, -1.0, 1.0, scaler=EWGS, axis=axis)]

        on_two = run()
        assert teams == [2, 2]
        torch.set_num_threads(1)
        assert same_bits(run(), on_two)
        assert torch.equal(on_two[0], eager.forward(x, step, -1.0, 1.0, axis=axis))

    def test_a_forked_process_has_no_other_threads(self, teams: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        assert threads.team_size() == 2
        monkeypatch.setattr(threads, "_forked", False)  # to be put back
        threads._mark_forked()
        assert threads.team_size() == 1

    def test_without_the_runtime_one_thread_computes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(threads, "_enter_team", None)
        x, _ = data(LARGE)
        assert threads.team_size() == 1
        assert torch.equal(fused.forward(x, 0.1, -1.0, 1.0), eager.forward(x, 0.1, -1.0, 1.0))

    def test_python_threads_may_call_at_once(self) -> None:
        """Each has its own job, and its own team."""
        inputs = [data(LARGE + 1000 * i) for i in range(2)]
        expected = [fused.backward(g, x, 0.1, -1.0, 1.0, scaler=EWGS) for x, g in inputs]
        wrong: list[int] = []

        def run(index: int) -> None:
            x, g = inputs[index]
            results = (fused.backward(g, x, 0.1, -1.0, 1.0, scaler=EWGS) for _ in range(5))
            wrong.extend(index for result in results if not same_bits(result, expected[index]))

        workers = [python_threads.Thread(target=run, args=(index,)) for index in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []


TEAMS = """
import os
import torch
from backends import fused

torch.set_num_threads(2)
x = torch.linspace(-2, 2, 1_000_000)
x.relu()
fused.forward(x[:10], 0.1, -1.0, 1.0)  # imports Numba, and with it SciPy, whose BLAS has threads
before = len(os.listdir("/proc/self/task"))
fused.forward(x, 0.1, -1.0, 1.0)
assert before > 1
assert len(os.listdir("/proc/self/task")) == before, "threads of its own"
"""

FORKING = """
import os, sys
import torch
from torch.utils.data import DataLoader
from backends import fused
from backends.fused import threads

torch.set_num_threads(2)
x = torch.linspace(-2, 2, 100_000)
y = fused.forward(x, 0.1, -1.0, 1.0)  # two threads: the pool exists when the children are made

class Rows:
    def __len__(self): return 4
    def __getitem__(self, index): return fused.forward(x, 0.1, -1.0, 1.0)

options = {"batch_size": None, "num_workers": 2, "multiprocessing_context": "fork", "timeout": 30}
for row in DataLoader(Rows(), worker_init_fn=lambda worker: torch.set_num_threads(2), **options):
    assert torch.equal(row, y)
child = os.fork()
if child == 0:
    os._exit(0 if threads.team_size() == 1 and (fused.forward(x, 0.1, -1.0, 1.0).numpy() == y.numpy()).all() else 1)
assert os.waitpid(child, 0)[1] == 0
assert threads.team_size() == 2
assert torch.equal(fused.forward(x, 0.1, -1.0, 1.0), y)
"""

CACHED = """
import os
import numpy as np
import torch
import sys
from backends import Scaler, fused
from backends.autograd import fake_quantize
from backends.fused import cpu, loops

for _ in range(2):  # two processes, for which torch is imported once
    assert loops.loop.cache_info().currsize == 0  # nothing is compiled by importing
    if os.fork():
        assert os.wait()[1] == 0
        continue
    x, step = torch.ones(3, requires_grad=True), torch.ones((), requires_grad=True)
    bounds = -torch.ones((), requires_grad=True), torch.ones((), requires_grad=True)
    fake_quantize(x, step, *bounds, scaler=Scaler("ste"), backend="fused").sum().backward()
    used = [("elementwise", np.float32, np.float32, False), ("backward", np.float32, loops.STE, loops.ALL_SUMS)]
    hits = [loops.loop(*name).owner.cache_hits for name in [*used, ("fold",)]]
    assert "torch._dynamo" not in sys.modules  # which takes seconds to import
    print(hits, loops.loop.cache_info().currsize, flush=True)
    os._exit(0)
"""


class TestProcesses:
    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no list of a process's threads here")
    def test_its_threads_are_those_of_torch(self) -> None:
        subprocess.run([sys.executable, "-c", TEAMS], check=True, timeout=120)

    def test_a_fork_and_the_workers_of_a_data_loader(self) -> None:
        subprocess.run([sys.executable, "-c", FORKING], check=True, timeout=120)

    def test_a_later_process_compiles_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
        said = subprocess.check_output([sys.executable, "-c", CACHED], text=True)
        assert said.splitlines() == ["[0, 0, 0] 3", "[1, 1, 1] 3"]

    def test_where_no_cache_can_be_written_it_compiles_all_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(numba.core.caching.CodeLibraryCacheImpl, "_locator_classes", [])
        monkeypatch.setattr(numba.core.caching.CompileResultCacheImpl, "_locator_classes", [])
        loop = loops.loop.__wrapped__("fold")
        assert loop.owner.cache_hits == 0


def test_a_loop_is_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    loops.loop.__wrapped__("fold")
    assert list(tmp_path.rglob("*.nbi"))


CURVES = {
    "acos": lambda e, x: np.sin(np.pi * e),
    "tanh": lambda e, x: np.tanh(x),
    "invtanh": lambda e, x: np.arctanh(x),
}
ERRORS = {"acos": 2.0**-22, "tanh": 2.0**-22, "invtanh": 2.0**-21}
"""Of the approximations, relative: 4 and 8 unit roundoffs, which is 2 and 4 ulp, where `tolerances.CURVE` allows 4."""
OF_HIGHEST_DEGREE = 1.25
"""As many times that a quotient of the highest degree may be off: on vectors of AVX-512 it is by 4.1."""
WHOLE: list[tuple[str, float | None, int]] = [
    ("acos", None, loops.ACOS),
    ("tanh", 4.0, loops.RATIONAL[2]),
    ("invtanh", 1.9, loops.RATIONAL[4]),
]
SMALLEST, LARGEST = (int(np.float32(e).view(np.uint32)) for e in (2.0**-30, 0.5))


def worst_error(name: str, alpha: float | None, kind: int, bits: np.ndarray) -> float:
    """Largest relative error of a scaler's curve over the e with these bits, of either sign.

    With delta = 2**40 the multiplier is the curve, but for its last addition. Where alpha * e is computed at all, the
    oracle takes it as rounded.
    """
    scaler = Scaler(name, delta=2.0**40, alpha=alpha)
    e = bits.astype(np.uint32).view(np.float32)
    assert cpu._constants(scaler)[0] == kind
    exact = kind in loops.RATIONAL.values()
    x = scaler.alpha * e.astype(np.float64) if exact else np.float32(scaler.alpha or 0) * e
    true = 1 + 2.0**40 * CURVES[name](e.astype(np.float64), x.astype(np.float64))
    found = plain(fused.multiplier(scaler, torch.ones(e.size), torch.from_numpy(e))).astype(np.float64)
    odd = plain(fused.multiplier(scaler, -torch.ones(e.size), torch.from_numpy(-e)))
    if name != "acos":
        np.testing.assert_array_equal(odd, found)  # sign(g) * f(e): both signs turned
    return float(np.max(np.abs(found - true) / true)) - tolerances.U


@pytest.mark.parametrize(
    ("name", "alpha", "kind"),
    [
        *WHOLE,
        ("tanh", 25.0, loops.RATIONAL[5]),
        ("tanh", 40.0, loops.RATIONAL[6]),
        ("tanh", 1e3, loops.TANH),
        ("invtanh", 1.9999998, loops.INVTANH),
    ],
)
def test_curves_are_as_good_as_the_rounding_of_a_few_operations(name: str, alpha: float | None, kind: int) -> None:
    """A sample, and all just below the threshold; `python -m tests.backends.test_fused_cpu` takes every float32."""
    sample = np.concatenate([np.arange(SMALLEST, LARGEST, 1009), np.arange(LARGEST - 2**16, LARGEST + 1)])
    allowed = ERRORS[name] * (OF_HIGHEST_DEGREE if kind == loops.RATIONAL[loops.HIGHEST_DEGREE] else 1)
    assert worst_error(name, alpha, kind, sample) <= allowed


@pytest.mark.parametrize("form", ["printed", "normalised"])
@pytest.mark.parametrize("delta", [5e-3, 0.1, 1.0])
@pytest.mark.parametrize(("name", "alpha"), [("tanh", 4.0), ("invtanh", 1.9), ("invtanh", 1.5), ("tanh", 8.0)])
def test_quotients_are_off_by_less_than_the_rounding_of_the_multiplier(
    name: str, alpha: float, delta: float, form: Any
) -> None:
    """In exact arithmetic: half a unit in the last place under 1, or two unit roundoffs of the curve."""
    scaler = Scaler(name, delta=delta, alpha=alpha, form=form)
    kind, constants = cpu._constants(scaler)
    degree = next(degree for degree, own in loops.RATIONAL.items() if own == kind)
    offset, slope, *rest = np.frombuffer(constants, np.float32).astype(np.float64)
    p, q = np.split(np.array(rest), 2)
    assert not p[degree + 1 :].any()
    e = np.linspace(0, 0.5, 100_001)
    t = offset + slope * e**2
    found = e * np.polynomial.polynomial.polyval(t, p) / np.polynomial.polynomial.polyval(t, q)
    true = reference.multiplier(scaler, np.ones_like(e), e) - 1
    assert (
        np.abs(found - true) <= np.maximum(curves.HALF_ULP, (2 + 1) * tolerances.U * true)
    ).all()  # and of factor * P


@pytest.mark.parametrize("name", ["acos", "tanh", "invtanh"])
def test_multipliers_are_as_good_as_their_rounding_at_the_usual_delta(name: str) -> None:
    """As computed: half an ulp, once for the last addition, once for the approximation, and a little for its parts."""
    scaler = Scaler(name)
    e = np.linspace(-0.5, 0.5, 1_000_001, dtype=np.float32)
    g = np.where(np.arange(e.size) % 2, 1, -1).astype(np.float32)
    found = plain(fused.multiplier(scaler, torch.from_numpy(g), torch.from_numpy(e)))
    true = reference.multiplier(scaler, g.astype(np.float64), e.astype(np.float64))
    half_ulp = np.spacing(true.astype(np.float32)) / 2
    assert (np.abs(found - true) <= half_ulp + curves.HALF_ULP + 16 * tolerances.U * np.abs(true - 1)).all()


def test_curves_at_zero_and_below_the_sample_are_exact_enough() -> None:
    e = torch.tensor([0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-100])
    for name in CURVES:
        assert torch.equal(fused.multiplier(Scaler(name, delta=0.5), torch.ones(5), e), torch.ones(5))


if __name__ == "__main__":
    for name, alpha, kind in WHOLE:
        chunks = (np.arange(first, min(first + 2**24, LARGEST + 1)) for first in range(SMALLEST, LARGEST + 1, 2**24))
        worst = max(worst_error(name, alpha, kind, chunk) for chunk in chunks)
        print(f"{name}: at most {worst / tolerances.U:.2f} * 2**-24")
