"""The CUDA kernels without a GPU: the contract in Triton's interpreter, and the machine code they are compiled to.

The interpreter runs the kernels with NumPy. It cannot show how the compiler divides, rounds, casts, loads and adds up,
so that is read in the PTX for a GPU that need not be there. What only a GPU can show is tested where there is one.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime import interpreter

from backends import BackendUnavailableError, Scaler, contract, eager, reference
from backends.fused import cuda
from tests.backends import test_backward, test_forward, test_scalers, tolerances
from tests.backends.cases import Case, assert_equal, no_cuda, plain
from tests.strategies import grid, random_values

STE = Scaler("ste")
KERNELS = ("_quantize_kernel", "_backward_kernel", "_multiplier_kernel")
HALVES = (torch.float16, torch.bfloat16)


@functools.cache
def interpreted() -> ModuleType:
    """A copy of `backends.fused.cuda` for the interpreter, which Triton chooses where kernels are defined.

    Each launch mends what the interpreter lacks: casts as they are on a GPU; `tl.fma` in float64, which rounds twice
    where a GPU rounds once; `tl.sum`, which cannot be interpreted where Triton itself was imported to compile; and how
    often a loop runs, which Triton 3.6 reads from an array in a way that NumPy 2.5 has given up.
    """
    spec = importlib.util.spec_from_file_location("interpreted_fused_cuda", cuda.__file__)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    launch = module._launch

    def mended(*arguments: Any, **constants: Any) -> None:
        with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
            patch.setattr(interpreter, "_convert_float", cast)
            patch.setattr(interpreter.InterpreterBuilder, "create_fma", fma)
            patch.setattr(tl, "sum", sum_along)
            patch.setattr(interpreter, "_patch_lang_tensor", with_index)
            launch(*arguments, **constants)

    module._launch = mended
    return module


_patch_lang_tensor = interpreter._patch_lang_tensor


def with_index(tensor: type, scope: Any) -> None:
    """The interpreter's own additions to its tensors, and the value of one that counts."""
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def cast(array: np.ndarray, source: tl.dtype, target: tl.dtype, rounding: Any) -> np.ndarray:
    """Bits of `array` in another float type, by torch: exact, or rounded half to even as `cvt.rn` does.

    The interpreter's own cast to bfloat16 truncates, and its cast from there loses subnormal numbers.
    """
    types = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    bits = {16: np.uint16, 32: np.uint32}
    own = torch.from_numpy(array.copy()).view(types[source.name])
    return own.to(types[target.name]).view(torch.uint8).numpy().view(bits[target.primitive_bitwidth])


def fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z with the product exact, which the interpreter rounds: in float64, then in float32."""
    exact = x.data.astype(np.float64) * y.data + z.data
    return interpreter.TensorHandle(exact.astype(np.float32), z.dtype.scalar)


def sum_along(tile: tl.tensor, axis: int, keep_dims: bool = False) -> tl.tensor:
    """What `tl.sum` is."""
    return tl.reduce(tile, axis, tl.standard._sum_combine, keep_dims=keep_dims)


class Interpreted(Case):
    """The interpreted copy, on CPU tensors."""

    @property
    def module(self) -> ModuleType:
        return interpreted()


@pytest.fixture
def backend() -> Case:
    return Interpreted("fused")


@pytest.fixture
def other() -> Case:
    return Interpreted("fused")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that the interpreted copy launches, in order."""
    names: list[str] = []

    class Spy:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(interpreted(), name)

        def __getitem__(self, programs: tuple[int]) -> Any:
            names.append(self.name)
            return self.kernel[programs]

    for name in KERNELS:
        monkeypatch.setattr(interpreted(), name, Spy(name))
    return names


# The contract, by the tests that every backend is held to, but for those of millions of elements.


class TestForwardVectors(test_forward.TestVectors):
    pass


class TestForwardClauses(test_forward.TestClauses):
    @pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
    @pytest.mark.parametrize("bits", test_forward.BIT_WIDTHS)
    def test_Q4_bit_equal_on_many_elements(self, other: Case, bits: int, signed: bool) -> None:
        """Twenty thousand, here."""
        generator = np.random.default_rng([bits, signed])
        setting = grid(bits, signed, step=generator.uniform(0.01, 1))
        self.assert_same_as_reference(other, random_values(setting, (20_001,), generator), setting.parameters)


class TestForwardShapes(test_forward.TestShapes):
    pass


class TestTruncatedCodes(test_forward.TestTruncatedCodes):
    pass


class TestBackwardVectors(test_backward.TestVectors):
    pass


class TestMask(test_backward.TestMask):
    pass


class TestAgainstFloat64(test_backward.TestAgainstFloat64):
    pass


class TestBackwardShapesAndDtypes(test_backward.TestShapesAndDtypes):
    pass


class TestNoise(test_backward.TestNoise):
    pass


class TestTable(test_scalers.TestTable):
    pass


# What the kernels have of their own.


SHAPES = [
    ((4099,), None, (1, 1), (512, 9)),
    ((3, 5, 700), 1, (2, 8), (256, 3)),
    ((150, 40, 3), 1, (16, 10), (32, 4)),
    ((3000,), 0, (512, 6), (1, 1)),
    ((2, 2500), 0, (2, 1), (256, 10)),
    ((70, 2, 1), 1, (128, 1), (4, 1)),
]
"""Shape of x, channel axis, and the tiles they make backward: rows of one and tiles below each other; the same for
columns."""


@pytest.fixture(params=[cuda.ENOUGH, 1], ids=["programs_of_one_tile", "of_some"])
def enough(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Programs that keep a GPU busy: few enough for a program of several tiles to be tried on little."""
    monkeypatch.setattr(interpreted(), "ENOUGH", request.param)
    return request.param


@pytest.mark.parametrize("name", ["ewgs", "tanh", "invtanh"])
def test_the_sign_of_0_is_0_and_that_of_nan_nan(backend: Case, name: str) -> None:
    """Where the multiplier is asked for; backward multiplies it by g."""
    g, e = np.meshgrid(np.float32([0.0, -0.0, np.nan, np.inf, -2.0]), np.float32([0.25, -0.25, np.nan]))
    scaler = Scaler(name, delta=0.5)
    np.testing.assert_allclose(backend.multiplier(scaler, g, e), reference.multiplier(scaler, g, e), rtol=1e-6)


class TestKernels:
    def test_each_is_reached(self, backend: Case, launched: list[str]) -> None:
        assert {name for name in vars(cuda) if name.endswith("_kernel")} == set(KERNELS)
        x = np.float32([0.3, 0.8])
        assert_equal(backend.codes(x, 0.5, -1.0, 1.0), np.int32([1, 2]))
        assert launched == ["_quantize_kernel"]
        assert_equal(backend.forward(x, 0.5, -1.0, 1.0), np.float32([0.5, 1.0]))
        assert launched == ["_quantize_kernel"] * 2
        assert_equal(backend.backward(x, x, 0.5, -1.0, 1.0, scaler=STE).x, x)
        assert launched == ["_quantize_kernel"] * 2 + ["_backward_kernel"]
        assert_equal(backend.multiplier(STE, x, x), np.float32([1.0, 1.0]))
        assert launched == ["_quantize_kernel"] * 2 + ["_backward_kernel", "_multiplier_kernel"]

    def test_forward_and_backward_are_one_launch_each_on_every_layout_without_gaps(self, launched: list[str]) -> None:
        x = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
        for view in (x, x.permute(3, 1, 0, 2), x.contiguous()):
            launched.clear()
            interpreted().forward(view, 0.5, -1.0, 1.0)
            interpreted().backward(view, view, torch.ones(view.shape[1]), -1.0, 1.0, scaler=STE, axis=1)
            assert launched == ["_quantize_kernel", "_backward_kernel"]

    def test_nothing_is_launched_for_an_empty_tensor(self, launched: list[str]) -> None:
        x = torch.empty(0, 3)
        assert interpreted().backward(x, x, torch.ones(3), -1.0, 1.0, scaler=STE, axis=1).step.tolist() == [0, 0, 0]
        assert interpreted().multiplier(STE, x, x).shape == (0, 3)
        assert launched == []

    @pytest.mark.parametrize(("shape", "axis", "rows", "columns"), SHAPES)
    def test_shapes_of_several_tiles(
        self,
        monkeypatch: pytest.MonkeyPatch,
        backend: Case,
        enough: int,
        shape: tuple[int, ...],
        axis: int | None,
        rows: tuple[int, int],
        columns: tuple[int, int],
    ) -> None:
        """Of every kind, with the last tiles in part beyond the tensor. Sums of these eighths are exact."""
        generator = np.random.default_rng(0)
        x = generator.integers(-16, 16, shape).astype(np.float32) / 8
        g = generator.integers(-4, 4, shape).astype(np.float32)
        step = 0.5 if axis is None else generator.choice(np.float32([0.25, 0.5, 1.0]), shape[axis])
        matrix = cuda._plan(torch.from_numpy(x), backend.native(step), -1.0, 1.5, axis, cuda.SUMMED).matrix
        down, across = matrix.programs()
        assert ((matrix.tile_rows, down), (matrix.tile_columns, across)) == (rows, columns)

        assert_equal(backend.codes(x, step, -1.0, 1.5, axis=axis), reference.codes(x, step, -1.0, 1.5, axis=axis))
        tiles, launch = [], interpreted()._launch
        monkeypatch.setattr(
            interpreted(), "_launch", lambda *a, **named: (tiles.append(named["repeat"]), launch(*a, **named))
        )
        ours = backend.backward(g, x, step, -1.0, 1.5, scaler=STE, axis=axis)
        assert (tiles[0] > 1) == (enough == 1 and x.size >= 2 * cuda.SUMMED)
        for found, expected in zip(ours, reference.backward(g, x, step, -1.0, 1.5, scaler=STE, axis=axis), strict=True):
            assert_equal(found, expected)

    @pytest.mark.parametrize(("shape", "axis"), [shape[:2] for shape in SHAPES])
    def test_nothing_beyond_the_tensor_is_read_or_written(
        self, enough: int, shape: tuple[int, ...], axis: int | None
    ) -> None:
        """NaN lies around every input and stays around every output."""
        around = [torch.full((math.prod(shape) + 2 * cuda.TILE,), torch.nan) for _ in range(5)]
        x, g, noise, y, dx = (array[cuda.TILE : -cuda.TILE].view(shape) for array in around)
        for array in (x, g, noise):
            array.fill_(0.25)
        step = 0.5 if axis is None else torch.full((shape[axis],), 0.5)
        scaler = Scaler("uniform_noise", delta=1.0)
        interpreted().forward(x, step, -1.0, 1.0, axis=axis, out=y)
        gradients = interpreted().backward(g, x, step, -1.0, 1.0, scaler=scaler, axis=axis, noise=noise, out=dx)
        assert not any(array.isnan().any() for array in (y, *gradients))
        assert gradients.step.sum() == -0.15625 * x.numel()  # 0.25 * (0 - 1.25 * 0.5) each
        assert all(array.isnan().sum() == 2 * cuda.TILE for array in around)

    def test_tiles_are_counted_without_overflow_up_to_the_largest_that_32_bits_hold(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first programs of so many elements, whose memory alone is there: they do the same as of few."""
        monkeypatch.setattr(interpreted(), "ENOUGH", 1)
        x = torch.linspace(-2, 2, 2 * cuda.MOST * cuda.SUMMED)
        expected = interpreted().backward(x, x, 0.5, -1.0, 1.5, scaler=STE)
        launch, columns = interpreted()._launch, 10

        def of_many(*arguments: Any, **constants: Any) -> None:
            of_kernel = list(arguments[3:])
            assert of_kernel[columns] == x.numel()
            of_kernel[columns] = 2**31 - cuda.SUMMED
            launch(*arguments[:3], *of_kernel, **constants)

        monkeypatch.setattr(interpreted(), "_launch", of_many)
        found = interpreted().backward(x, x, 0.5, -1.0, 1.5, scaler=STE)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    @pytest.mark.parametrize(("shape", "axis"), [shape[:2] for shape in SHAPES])
    def test_every_address_that_is_read_is_of_a_tensor(
        self, monkeypatch: pytest.MonkeyPatch, enough: int, shape: tuple[int, ...], axis: int | None
    ) -> None:
        """Those of parameters too, of which a tile beyond the last channel has none."""
        memory: list[range] = []
        strays: list[np.ndarray] = []
        launch, load = interpreted()._launch, interpreter.InterpreterBuilder.create_masked_load

        def known(kernel: Any, programs: int, places: int, *arguments: Any, **constants: Any) -> None:
            arrays = [array for array in arguments if isinstance(array, torch.Tensor)]
            memory[:] = [range(array.data_ptr(), array.data_ptr() + array.nbytes) for array in arrays]
            launch(kernel, programs, places, *arguments, **constants)

        def watched(builder: Any, pointers: Any, mask: Any, *options: Any) -> Any:
            read = pointers.data[mask.data]
            strays.append(read[~np.any([(read >= of.start) & (read < of.stop) for of in memory], axis=0)])
            return load(builder, pointers, mask, *options)

        monkeypatch.setattr(interpreted(), "_launch", known)
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", watched)
        x = torch.ones(shape)
        parameters = [torch.full(() if axis is None else (shape[axis],), value) for value in (0.5, -1.0, 1.0)]
        interpreted().forward(x, *parameters, axis=axis)
        interpreted().backward(x, x, *parameters, scaler=STE, axis=axis)
        assert strays
        assert not np.concatenate(strays).size

    def test_Q2_codes_up_to_the_largest(self, backend: Case) -> None:
        """On both sides of 2**22 and 2**23, where float32 loses its quarters and halves, and odd ones beyond."""
        x = np.float32([2**22 - 0.5, 2**22 + 0.5, 2**22 + 1.5, 2**23 - 0.5, 2**23 + 1, 2**24 - 1])
        expected = np.int32([2**22, 2**22, 2**22 + 2, 2**23, 2**23 + 1, 2**24 - 1])
        assert_equal(backend.codes(x, 1.0, -(2.0**24), 2.0**24), expected)
        assert_equal(backend.codes(-x, 1.0, -(2.0**24), 2.0**24), -expected)

    def test_out_may_overlap_what_is_read(self) -> None:
        memory = torch.linspace(-1.5, 1.5, 3001)
        x, out = memory[:3000], memory[1:]
        y, dx = eager.forward(x, 0.5, -1.0, 1.0), eager.backward(x, x, 0.5, -1.0, 1.0, scaler=STE).x
        for expected, run in (
            (y, lambda: interpreted().forward(x, 0.5, -1.0, 1.0, out=out)),
            (dx, lambda: interpreted().backward(x, x, 0.5, -1.0, 1.0, scaler=STE, out=out)),
        ):
            kept = memory.clone()
            run()
            assert torch.equal(out, expected)
            memory.copy_(kept)

    def test_autograd_is_told_of_what_is_written_to_out(self) -> None:
        x, out = torch.ones(3), torch.zeros(3, requires_grad=True)
        squared = out**2  # keeps `out` for its backward
        interpreted().forward(x, 0.5, -1.0, 1.0, out=out)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            squared.sum().backward()

    @pytest.mark.parametrize("axis", [None, 0, 1])
    def test_G3_the_same_from_run_to_run(self, backend: Case, axis: int | None) -> None:
        x, g = np.random.default_rng(0).standard_normal((2, 70, 130), dtype=np.float32)
        step = 0.3 if axis is None else np.linspace(0.1, 0.5, x.shape[axis], dtype=np.float32)
        first, second = (backend.backward(g, x, step, -1.0, 1.0, scaler=STE, axis=axis) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert a.tobytes() == b.tobytes()

    def test_G3_sums_of_many_tiles_are_pairwise_or_better(self, backend: Case, enough: int) -> None:
        g = np.full(2**17, 0.1, np.float32)
        upper = backend.backward(g, np.full_like(g, 9.0), 0.5, -1.0, 1.5, scaler=STE).upper
        assert abs(float(upper) - float(g[0]) * g.size) <= test_backward.TestSums.bound(g)


class TestLayouts:
    """Where x, grad, noise and out lie; the contract's own tests say that the results are right in every layout."""

    @staticmethod
    def pointers(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> tuple[set[int], Any]:
        """Addresses that the backward kernel is given, and what `backward` returns."""
        taken: set[int] = set()
        launch = interpreted()._launch

        def record(kernel: Any, programs: int, *arrays: Any, **constants: Any) -> None:
            taken.update(array.data_ptr() for array in arrays if isinstance(array, torch.Tensor))
            launch(kernel, programs, *arrays, **constants)

        monkeypatch.setattr(interpreted(), "_launch", record)
        return taken, interpreted().backward(*arguments, 0.5, -1.0, 1.5, **options)

    @pytest.mark.parametrize("view", ["contiguous", "transposed", "channels_last", "one_row"])
    def test_layouts_without_gaps_are_walked_where_they_lie(self, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
        x = torch.linspace(-2, 2, 120).reshape(2, 3, 4, 5)
        x = {
            "contiguous": x,
            "transposed": x.permute(3, 1, 0, 2),
            "channels_last": x.to(memory_format=torch.channels_last),
            "one_row": x.as_strided((1, 120, 1), (7, 1, 7)),
        }[view]
        g, noise, out = (torch.empty_like(x).fill_(value) for value in (1.0, 0.5, 0.0))
        if view == "one_row":  # strides that nothing steps along say nothing
            g, noise, out = (array.as_strided(x.shape, (120, 1, 1)) for array in (g, noise, out))
        taken, gradients = self.pointers(
            monkeypatch, g, x, scaler=Scaler("uniform_noise", delta=1.0), noise=noise, out=out
        )
        assert taken >= {array.data_ptr() for array in (g, x, noise, out)}
        assert gradients.x is out
        assert torch.equal(out, torch.where((x >= -1) & (x <= 1.5), 1.5, 0.0))

    @pytest.mark.parametrize("view", ["gaps", "overlaps"])
    def test_layouts_with_gaps_or_overlaps_are_copied(self, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
        x = torch.linspace(-2, 2, 24).reshape(4, 6)
        x = x[:, ::2] if view == "gaps" else x[:, :1].expand(4, 3)
        out = torch.zeros(4, 6)[:, ::2]
        taken, gradients = self.pointers(monkeypatch, torch.ones(4, 3), x, scaler=STE, out=out)
        assert not taken & {x.data_ptr(), out.data_ptr()}
        assert gradients.x is out
        assert torch.equal(out, ((x >= -1) & (x <= 1.5)).float())
        across = x.t()
        assert interpreted().forward(across, 0.5, -1.0, 1.5).stride() == (across + 0).stride()

    def test_a_single_channel_of_any_stride(self) -> None:
        x = torch.linspace(-2, 2, 120).as_strided((1, 120, 1), (7, 1, 7))
        expected = interpreted().backward(x, x, 0.5, -1.0, 1.5, scaler=STE)
        for axis in (0, 2):
            found = interpreted().backward(x, x, torch.tensor([0.5]), -1.0, 1.5, scaler=STE, axis=axis)
            assert torch.equal(found.x, expected.x)
            assert found.step.tolist() == [expected.step]

    def test_what_is_laid_out_differently_is_copied(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x = torch.linspace(-2, 2, 24).reshape(4, 6)
        g, noise, out = (torch.full((6, 4), value).t() for value in (1.0, 0.5, 0.0))
        g[1, 2] = 3.0
        taken, gradients = self.pointers(
            monkeypatch, g, x, scaler=Scaler("uniform_noise", delta=1.0), noise=noise, out=out
        )
        assert x.data_ptr() in taken
        assert not taken & {g.data_ptr(), noise.data_ptr(), out.data_ptr()}
        assert torch.equal(out, torch.where((x >= -1) & (x <= 1.5), 1.5 * g, 0.0))
        assert gradients.x is out

    def test_results_keep_channels_last(self) -> None:
        x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
        step = torch.tensor([0.1, 0.2, 0.3])
        gradients = interpreted().backward(x, x, step, -1.0, 1.0, scaler=STE, axis=1)
        for result in (
            *(f(x, step, -1.0, 1.0, axis=1) for f in (interpreted().codes, interpreted().forward)),
            gradients.x,
        ):
            assert result.is_contiguous(memory_format=torch.channels_last)


class TestDtypes:
    SETTING = grid(5, signed=True, step=0.0123)

    def test_Q5_every_bfloat16_is_computed_in_float32_and_cast_once(self) -> None:
        x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
        wide = x.float().numpy()
        found = plain(interpreted().codes(x, *self.SETTING.parameters))
        assert_equal(found, reference.codes(wide, *self.SETTING.parameters))
        values = interpreted().forward(x, *self.SETTING.parameters)
        assert values.dtype == torch.bfloat16
        expected = torch.from_numpy(reference.forward(wide, *self.SETTING.parameters)).bfloat16()
        assert_equal(plain(values.float()), plain(expected.float()))

    @pytest.mark.parametrize("dtype", HALVES)
    def test_Q5_gradients_are_computed_in_float32_and_cast_once(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        x, g = (torch.randn(5000, generator=generator).to(dtype) for _ in range(2))
        scaler = Scaler("ewgs", delta=0.2)
        half = interpreted().backward(g, x, 0.3, -1.0, 1.0, scaler=scaler)
        full = interpreted().backward(g.float(), x.float(), 0.3, -1.0, 1.0, scaler=scaler)
        assert half.x.dtype == dtype
        assert torch.equal(half.x, full.x.to(dtype))
        assert half[1:] == full[1:]

    @pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
    def test_Q5_parameters_of_any_dtype_are_cast_to_float32(self, dtype: torch.dtype) -> None:
        """As numbers, as 0-d and as 1-D tensors; half a step in float64 lies above half a step in float32."""
        step = torch.tensor([0.1, 0.3], dtype=dtype)
        x = torch.stack([step.float() * 0.5, step.float() * 1.5])
        codes = interpreted().codes(x.t(), step, -1.0, 1.0, axis=0)
        assert torch.equal(codes, eager.codes(x.t(), step.float(), -1.0, 1.0, axis=0))
        for i in range(2):
            for one in (step[i], step[i].item()):
                assert torch.equal(interpreted().codes(x[:, i], one, -1.0, 1.0), codes[i])

    def test_float64_is_declined(self) -> None:
        x = torch.ones(2, dtype=torch.float64)
        for call in (
            lambda: interpreted().codes(x, 0.5, -1.0, 1.0),
            lambda: interpreted().forward(x, 0.5, -1.0, 1.0),
            lambda: interpreted().backward(x, x, 0.5, -1.0, 1.0, scaler=STE),
            lambda: interpreted().multiplier(STE, x, x),
        ):
            with pytest.raises(BackendUnavailableError, match=r"not torch\.float64: ask for 'eager'"):
                call()


def test_a_view_that_turns_signs_is_read_as_it_is_seen() -> None:
    x, g = torch.linspace(-1, 1, 50), torch.linspace(2, -1, 50)
    turned, back, out = (torch._neg_view(-t) for t in (x, g, x))
    module, expected = interpreted(), eager.backward(g, x, 0.1, -0.8, 0.8, scaler=Scaler("ewgs", 1.0)).x
    assert torch.equal(module.forward(turned, 0.1, -0.8, 0.8), eager.forward(x, 0.1, -0.8, 0.8))
    assert torch.equal(module.forward(x, 0.1, -0.8, 0.8, out=out), eager.forward(x, 0.1, -0.8, 0.8))
    found = module.backward(back, turned, 0.1, -0.8, 0.8, scaler=Scaler("ewgs", 1.0)).x
    torch.testing.assert_close(found, expected)


class TestScalers:
    def test_S5_registered_scalers_are_declined(self) -> None:
        contract.register_scaler("cubic")(lambda xp, grad, error, delta, alpha: grad)
        try:
            x, scaler = torch.ones(2), Scaler("cubic")
            with pytest.raises(BackendUnavailableError, match="registered scaler 'cubic': ask for 'eager'"):
                interpreted().backward(x, x, 0.5, -1.0, 1.0, scaler=scaler)
            with pytest.raises(BackendUnavailableError, match="registered scaler 'cubic': ask for 'eager'"):
                interpreted().multiplier(scaler, x, x)
        finally:
            contract.unregister_scaler("cubic")

    def test_multiplier_follows_the_layout_of_grad(self) -> None:
        g, e = torch.tensor([[1.0, -1.0, 0.0], [2.0, 1.0, -3.0]]), torch.tensor([[0.5, 0.25, 0.1], [-0.5, 0.0, 0.125]])
        expected = eager.multiplier(Scaler("ewgs", 1.0), g, e)
        s = interpreted().multiplier(Scaler("ewgs", 1.0), g.t().contiguous().t(), e)
        assert torch.equal(s, expected)
        assert s.stride() == (1, 2)

    def test_an_error_of_another_shape_raises(self) -> None:
        with pytest.raises(ValueError, match="error has shape"):
            interpreted().multiplier(STE, torch.ones(2), torch.ones(3))


def curve_error(module: ModuleType, scaler: Scaler, device: str) -> float:
    """Largest relative error of the scaler's curve over 0 < |e| <= 0.5, in units of 2**-24.

    A delta of 2**100 leaves nothing of the 1 in the multiplier, so that it is the curve itself.
    """
    positive = torch.linspace(0, 0.5, 20_001)[1:]
    e = torch.cat([-positive, positive, torch.logspace(-18, -6, 100)])
    s = module.multiplier(scaler, torch.ones_like(e).to(device), e.to(device)).cpu().double() / scaler.delta
    u = (torch.tensor(scaler.alpha or 1.0) * e).double()  # its rounding is not the function's
    exact = {"acos": torch.sin(torch.pi * u), "tanh": torch.tanh(u), "invtanh": torch.atanh(u)}[scaler.name]
    return float((s / exact - 1).abs().max()) / tolerances.U


CURVES = [
    Scaler("acos", 2.0**100),
    *(Scaler("tanh", 2.0**100, alpha) for alpha in (0.5, 4.0, 300.0)),
    *(Scaler("invtanh", 2.0**100, alpha) for alpha in (0.5, 1.9, 1.9999998)),
]


@pytest.mark.parametrize("scaler", CURVES, ids=lambda s: f"{s.name}-{s.alpha}")
class TestCurves:
    """`tolerances.CURVE` allows a function 8 * 2**-24: with delta = 5e-3, a 25th of the multiplier's own rounding."""

    def test_interpreted(self, scaler: Scaler) -> None:
        assert curve_error(interpreted(), scaler, "cpu") <= 4

    @no_cuda
    def test_on_a_gpu(self, scaler: Scaler) -> None:
        assert curve_error(cuda, scaler, "cuda") <= 8


class Launch:
    """Stands for a kernel and keeps what it was last launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, programs: tuple[int]) -> Any:
        return self.keep

    def keep(self, *arguments: Any, **named: Any) -> None:
        self.arguments, self.named = arguments, named


META = {"device": "meta"}
"""Tensors without data: whatever reads a value fails."""


@pytest.fixture
def meta_launch(monkeypatch: pytest.MonkeyPatch) -> dict[str, Launch]:
    """`backends.fused.cuda` with its kernels replaced, so that it runs on the meta device."""
    launches = {name: Launch(getattr(cuda, name)) for name in KERNELS}
    for name, launch in launches.items():
        monkeypatch.setattr(cuda, name, launch)
    return launches


class TestDevice:
    @pytest.mark.parametrize("axis", [None, 1])
    def test_Q7_nothing_reads_the_device(self, meta_launch: dict[str, Launch], axis: int | None) -> None:
        x = torch.empty(2, 3, **META)
        for step in (0.1, torch.tensor(0.1), torch.tensor(0.1, **META), *([torch.empty(3, **META)] if axis else [])):
            assert cuda.codes(x, step, -1.0, 1.0, axis=axis).device == x.device
            assert cuda.forward(x, step, -1.0, 1.0, axis=axis).device == x.device
            gradients = cuda.backward(x, x, step, -1.0, 1.0, scaler=Scaler("tanh"), axis=axis)
            assert [gradient.device for gradient in gradients] == [x.device] * 4
        assert cuda.multiplier(Scaler("tanh"), x, x).device == x.device

    def test_Q7_a_tensor_elsewhere_raises_instead_of_being_fetched(self) -> None:
        with pytest.raises(ValueError, match="upper is on meta, expected the device of x, cpu"):
            cuda.forward(torch.ones(3), 0.5, -1.0, torch.ones(3, **META), axis=0)

    def test_constants_of_a_scaler_are_not_compiled_into_a_kernel(self, meta_launch: dict[str, Launch]) -> None:
        """As integers would be."""
        x = torch.empty(2, **META)
        cuda.multiplier(Scaler("tanh", delta=1, alpha=1), x, x)
        named = meta_launch["_multiplier_kernel"].named
        assert [type(named[name]) for name in ("strength", "alpha")] == [float, float]

    @pytest.mark.parametrize(
        ("count", "large"),
        [
            (2**31 - cuda.TILE, [False, False, False]),
            (2**31 - cuda.TILE + 1, [True, False, True]),
            (2**31 - cuda.SUMMED + 1, [True, True, True]),
        ],
    )
    def test_places_are_counted_in_64_bits_before_32_overflow(
        self, meta_launch: dict[str, Launch], count: int, large: list[bool]
    ) -> None:
        """Those of masked elements too, which the last tile of 2**31 - 1 elements has."""
        x = torch.empty(count, dtype=torch.float16, **META)
        cuda.forward(x, 0.5, -1.0, 1.0)
        cuda.backward(x, x, 0.5, -1.0, 1.0, scaler=STE)
        cuda.multiplier(STE, x, x)
        assert [meta_launch[name].named["LARGE"] for name in KERNELS] == large


class Hopper:
    """Stands for the driver of a GPU of compute capability 9.0: all that Triton asks before it launches."""

    def get_current_device(self) -> str:
        return "none"

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def compiled(launch: Launch) -> dict[str, str]:
    """The code of every stage, compiled by Triton as for this launch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.runtime.driver, "_active", Hopper())
        return launch.kernel.run(*launch.arguments, **launch.named, grid=None, warmup=True).asm


ODD = (5, 1001)
"""A size that no power of two divides; as one row that is walked in whole tiles but for the last."""


@pytest.mark.skipif(not isinstance(cuda._rint, triton.JITFunction), reason="TRITON_INTERPRET is set: nothing compiles")
class TestMachineCode:
    @pytest.fixture(autouse=True)
    def own_cache(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_values(self, meta_launch: dict[str, Launch], dtype: torch.dtype) -> None:
        cuda.forward(torch.empty(ODD, dtype=dtype, **META), 0.5, -1.0, 1.0)
        ptx = compiled(meta_launch["_quantize_kernel"])["ptx"]
        self.check(ptx, cuda.TILE, reciprocals=1)
        self.check_rint(ptx, cuda.TILE)
        self.check_vectors(ptx)
        self.check_mended(ptx)
        assert ".ftz" not in ptx, "subnormal steps and elements count"
        if dtype == torch.bfloat16:
            assert set(re.findall(r"cvt\.\S*bf16x2?\.f32", ptx)) <= {"cvt.rn.bf16x2.f32", "cvt.rn.bf16.f32"}

    def test_codes(self, meta_launch: dict[str, Launch]) -> None:
        cuda.codes(torch.empty(ODD, **META), torch.empty((), **META), -1.0, 1.0)
        ptx = compiled(meta_launch["_quantize_kernel"])["ptx"]
        self.check(ptx, cuda.TILE, reciprocals=1)
        self.check_vectors(ptx)
        self.check_mended(ptx)
        assert "cvt.rzi.s32.f32" in ptx
        assert re.search(r"\bselp\.\S+.*(-2147483648|0fCF000000)", ptx), "alone the conversion makes 0 of NaN (Q6)"

    @pytest.mark.parametrize(("name", "quotients"), [("ewgs", 0), ("acos", 0), ("tanh", 1), ("invtanh", 1)])
    def test_backward(self, meta_launch: dict[str, Launch], name: str, quotients: int) -> None:
        x = torch.empty(ODD, **META)
        cuda.backward(x, x, 0.5, -1.0, 1.0, scaler=Scaler(name))
        ptx = compiled(meta_launch["_backward_kernel"])["ptx"]
        self.check(ptx, cuda.SUMMED, 1, quotients)
        self.check_rint(ptx, cuda.SUMMED)
        self.check_vectors(ptx)

    @pytest.mark.parametrize("needs", [(False, False, False), (True, False, False), (True, True, True)])
    def test_sums_that_nobody_needs_are_not_added_up(self, meta_launch: dict[str, Launch], needs: tuple) -> None:
        x = torch.empty(ODD, **META)
        cuda.backward(x, x, 0.5, -1.0, 1.0, scaler=STE, needs=needs)
        code = compiled(meta_launch["_backward_kernel"])["ttir"]
        assert code.count('"tt.reduce"') == 2 * sum(needs)  # of neighbours, and of all that a program has

    @pytest.mark.parametrize(
        ("shape", "reductions"), [((1, 200, 2), 6), ((512, 48, 3), 3)], ids=["by_row", "by_column"]
    )
    def test_neighbours_are_added_up_where_they_are_of_one_channel(
        self, meta_launch: dict[str, Launch], shape: tuple[int, ...], reductions: int
    ) -> None:
        """Both of two in a row, too."""
        x, channels = torch.empty(shape, **META), torch.empty(shape[1], **META)
        cuda.backward(x, x, channels, -1.0, channels, scaler=STE, axis=1)
        assert compiled(meta_launch["_backward_kernel"])["ttir"].count('"tt.reduce"') == reductions

    @pytest.mark.parametrize(
        ("shape", "reciprocals"), [((4, 64, 48), 1), ((512, 48, 3), 4)], ids=["by_row", "by_column"]
    )
    def test_per_channel(self, meta_launch: dict[str, Launch], shape: tuple[int, ...], reciprocals: int) -> None:
        x, channels = torch.empty(shape, **META), torch.empty(shape[1], **META)
        cuda.backward(x, x, channels, -1.0, channels, scaler=STE, axis=1)
        assert meta_launch["_backward_kernel"].named["BY_COLUMN"] == (shape[0] == 512)
        ptx = compiled(meta_launch["_backward_kernel"])["ptx"]
        self.check(ptx, cuda.SUMMED, reciprocals)
        self.check_vectors(ptx)

    @pytest.mark.parametrize("count", [5000, 2**31])
    def test_multiplier_and_the_width_of_places(self, meta_launch: dict[str, Launch], count: int) -> None:
        x = torch.empty(count, **META)
        cuda.multiplier(Scaler("pbgs"), x, x)
        code = compiled(meta_launch["_multiplier_kernel"])
        self.check_vectors(code["ptx"])
        self.check_width(meta_launch["_multiplier_kernel"], code, count)

    @pytest.mark.parametrize(("shape", "axis"), [((2**31 + 5,), None), ((4, 2**29), 0), ((2**24, 48, 3), 1)])
    def test_the_width_of_places_backward(
        self, meta_launch: dict[str, Launch], shape: tuple[int, ...], axis: int | None
    ) -> None:
        x, step = torch.empty(shape, **META), 0.5 if axis is None else torch.empty(shape[axis], **META)
        cuda.backward(x, x, step, -1.0, 1.0, scaler=STE, axis=axis)
        launch = meta_launch["_backward_kernel"]
        self.check_width(launch, compiled(launch), x.numel())

    @staticmethod
    def check_width(launch: Launch, code: dict[str, str], count: int) -> None:
        """Of the places of a tile's elements."""
        tile = f"{launch.named.get('ROWS', 1)}x{launch.named['COLUMNS']}"
        widths = set(re.findall(rf"tt\.addptr .*tensor<{tile}xi(\d+)", code["ttir"]))
        assert widths == {"32" if count < 2**31 else "64"}

    @staticmethod
    def check(ptx: str, tile: int, reciprocals: int, quotients: int = 0) -> None:
        """Correctly rounded reciprocals of a thread's steps, mended twice for each of its elements (Q1), quotients of a
        scaler's curve for each of these, within two last places, and nothing atomic (G3)."""
        elements = tile // (32 * cuda.WARPS)
        found = re.findall(r"\b(?:div|rcp)\.\S*f32", ptx)
        assert found == ["div.rn.f32"] * reciprocals + ["div.full.f32"] * quotients * elements
        assert len(re.findall(r"\bfma\.rn\.f32", ptx)) >= 4 * elements
        assert not re.search(r"\b(?:atom|red)\.", ptx)

    @staticmethod
    def check_mended(ptx: str) -> None:
        """Two remainders and two corrections for each of a thread's elements, and nothing else contracted (Q1, Q4)."""
        assert len(re.findall(r"\bfma\.rn\.f32", ptx)) == 4 * cuda.TILE // (32 * cuda.WARPS)

    @staticmethod
    def check_rint(ptx: str, tile: int) -> None:
        """2**23 with the sign of v is added and taken away again: nobody has simplified that (Q2)."""
        added = re.findall(r"add\.f32\s+(%r\d+), %r\d+, (%r\d+);", ptx)
        taken = re.findall(r"sub\.f32\s+%r\d+, (%r\d+), (%r\d+);", ptx)
        assert len(set(added) & set(taken)) == tile // (32 * cuda.WARPS)
        assert re.search(r"0f4B000000|\b1258291200\b", ptx)

    @staticmethod
    def check_vectors(ptx: str) -> None:
        """16 bytes at a time, in and out."""
        assert "ld.global.v4.b32" in ptx
        assert "st.global.v4.b32" in ptx


@no_cuda
class TestOnGpu:
    """Beyond the contract's tests, which run on a GPU as they do elsewhere."""

    @pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
    @pytest.mark.parametrize("dtype", cuda.DTYPES)
    @pytest.mark.parametrize("axis", [None, 0, 1])
    def test_bit_equal_to_the_reference(self, dtype: torch.dtype, axis: int | None, offset: int) -> None:
        generator = np.random.default_rng(0)
        setting = grid(4, signed=True)
        x = torch.from_numpy(random_values(setting, (257 * 1023 + offset,), generator)).to(dtype)[offset:]
        x = x.reshape(257, 1023)
        step = 0.1 if axis is None else torch.linspace(0.05, 0.2, x.shape[axis])
        plain_step = step if axis is None else step.numpy()
        on_gpu = torch.empty(x.numel() + offset, dtype=dtype, device="cuda")[offset:].reshape(x.shape).copy_(x)
        step = step if axis is None else step.cuda()
        expected = reference.codes(x.float().numpy(), plain_step, -0.8, 0.7, axis=axis)
        assert_equal(plain(cuda.codes(on_gpu, step, -0.8, 0.7, axis=axis)), expected)
        expected = torch.from_numpy(reference.forward(x.float().numpy(), plain_step, -0.8, 0.7, axis=axis)).to(dtype)
        assert torch.equal(cuda.forward(on_gpu, step, -0.8, 0.7, axis=axis).cpu(), expected)

    def test_Q7_no_synchronisation(self) -> None:
        x = torch.empty(2, 3, device="cuda")
        steps = (0.1, torch.tensor(0.1), torch.full((), 0.1, device="cuda"), torch.full((3,), 0.1, device="cuda"))
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in steps:
                cuda.codes(x, step, -1.0, 1.0, axis=1)
                cuda.forward(x, step, -1.0, 1.0, axis=1)
                cuda.backward(x, x, step, -1.0, 1.0, scaler=Scaler("invtanh"), axis=1)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_more_than_two_to_the_31_elements(self) -> None:
        count = 2**31 + 5
        if torch.cuda.mem_get_info()[0] < 6 * count:
            pytest.skip("less than 13 GB of GPU memory are free")
        x = torch.zeros(count, dtype=torch.bfloat16, device="cuda")
        x[-1] = 9.0
        assert cuda.forward(x, 0.5, -1.0, 1.5, out=x)[-6:].tolist() == [0, 0, 0, 0, 0, 1.5]

    def test_G3_the_same_from_run_to_run(self) -> None:
        x = torch.randn(64, 8, 5000, generator=torch.Generator().manual_seed(0)).cuda()
        for axis, step in ((None, 0.3), (1, torch.linspace(0.1, 0.5, 8, device="cuda"))):
            first, *others = (cuda.backward(x, x, step, -1.0, 1.0, scaler=STE, axis=axis) for _ in range(5))
            for other in others:
                assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
