"""Codes and values of every backend: clauses Q1 to Q7."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest

from backends import reference
from tests.backends.cases import Case, assert_equal
from tests.strategies import BIT_WIDTHS, STEPS, Grid, grid, random_values, specials, tie_grid

INT32_MIN = np.iinfo(np.int32).min

# Worked by hand: step 0.5, range -1 .. 1.5.
X = [-9.0, -1.0, -0.75, -0.3, -0.25, -0.0, 0.25, 0.3, 0.75, 1.25, 1.5, 1.6, inf, -inf, nan]
CODES = [-2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 3, 3, 3, -2, INT32_MIN]
VALUES = [-1.0, -1.0, -1.0, -0.5, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.5, 1.5, 1.5, -1.0, nan]


def to_float32(exact: Fraction) -> Fraction:
    """The float32 number nearest to a rational one, ties to even; normal range only."""
    if exact == 0:
        return exact
    exponent = abs(exact.numerator).bit_length() - exact.denominator.bit_length()
    if abs(exact) < Fraction(2) ** exponent:
        exponent -= 1
    ulp = Fraction(2) ** (exponent - 23)
    return round(exact / ulp) * ulp  # `round` on a Fraction is half to even, exactly


def exact_codes(x: np.ndarray, setting: Grid) -> list[int]:
    """The contract in rational arithmetic, one element at a time: the judge of the reference itself."""
    step, lower, upper = (Fraction(float(np.float32(parameter))) for parameter in setting.parameters)
    clipped = [min(max(Fraction(float(value)), lower), upper) for value in x.ravel()]
    return [round(to_float32(value / step)) for value in clipped]


def all_settings(step: float) -> list[Grid]:
    return [grid(bits, signed, step) for bits in BIT_WIDTHS for signed in (True, False)]


class TestVectors:
    def test_codes(self, backend: Case) -> None:
        assert_equal(backend.codes(np.float32(X), 0.5, -1.0, 1.5), np.int32(CODES))

    def test_values(self, backend: Case) -> None:
        assert_equal(backend.forward(np.float32(X), 0.5, -1.0, 1.5), np.float32(VALUES))

    def test_per_channel(self, backend: Case) -> None:
        x = np.float32([[0.3, 0.3], [0.8, 0.8], [-5.0, -5.0]])
        step, lower, upper = np.float32([0.5, 0.2]), np.float32([-1.0, 0.0]), np.float32([1.5, 0.6])
        assert_equal(backend.codes(x, step, lower, upper, axis=1), np.int32([[1, 2], [2, 3], [-2, 0]]))
        values = np.float32([[0.5, np.float32(0.2) * 2], [1.0, np.float32(0.2) * 3], [-1.0, 0.0]])
        assert_equal(backend.forward(x, step, lower, upper, axis=1), values)


class TestClauses:
    def test_Q1_division_is_correctly_rounded(self, backend: Case) -> None:
        x = np.float32([0.15000000596046448])  # 1.5 steps: the quotient rounds to 1.5 and to the even code 2
        assert_equal(backend.codes(x, 0.1, 0.0, 1.0), np.int32([2]))
        for setting in all_settings(0.1):
            ties = tie_grid(setting)
            assert backend.codes(ties, *setting.parameters).tolist() == exact_codes(ties, setting)

    def test_Q1_a_product_with_the_reciprocal_would_be_noticed(self) -> None:
        """The tie grid tells division from multiplication, so the tests that use it judge Q1."""
        setting = grid(8, signed=True, step=0.1)
        ties = tie_grid(setting)
        step, lower, upper = np.float32(setting.parameters)
        wrong = np.rint(np.clip(ties, lower, upper) * (1 / step)).astype(np.int32)
        assert np.count_nonzero(wrong != reference.codes(ties, step, lower, upper)) > 0

    def test_Q2_round_half_to_even(self, backend: Case) -> None:
        x = np.float32([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
        assert_equal(backend.codes(x, 1.0, -8.0, 7.0), np.int32([-4, -2, -2, 0, 0, 2, 2, 4]))
        below_half = np.nextafter(np.float32(0.5), np.float32(0))  # floor(v + 0.5) in float32 makes this 1
        assert_equal(backend.codes(np.float32([below_half]), 1.0, -8.0, 7.0), np.int32([0]))

    def test_Q3_clip_in_real_units_then_divide(self, backend: Case) -> None:
        x = np.float32([0.6, 0.8, 5.0, -5.0])
        assert_equal(backend.codes(x, 0.5, -0.7, 0.8), np.int32([1, 2, 2, -1]))
        assert_equal(backend.forward(x, 0.5, -0.7, 0.8), np.float32([0.5, 1.0, 1.0, -0.5]))

    @pytest.mark.parametrize("step", STEPS)
    def test_Q4_bit_equal_on_ties_and_specials(self, other: Case, step: float) -> None:
        for setting in all_settings(step):
            x = np.concatenate([tie_grid(setting), specials(setting)])
            self.assert_same_as_reference(other, x, setting.parameters)

    @pytest.mark.usefixtures("two_threads")
    @pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
    @pytest.mark.parametrize("bits", BIT_WIDTHS)
    def test_Q4_bit_equal_on_many_elements(self, other: Case, bits: int, signed: bool) -> None:
        """A million at each setting."""
        generator = np.random.default_rng([bits, signed])
        setting = grid(bits, signed, step=generator.uniform(0.01, 1))
        self.assert_same_as_reference(other, random_values(setting, (1_000_000,), generator), setting.parameters)

    @pytest.mark.parametrize("axis", [0, 1, 2, -1])
    def test_Q4_bit_equal_per_channel(self, other: Case, axis: int) -> None:
        generator = np.random.default_rng(axis + 1)
        x = random_values(grid(4, signed=True), (6, 5, 7), generator)
        channels = x.shape[axis]
        step = generator.uniform(0.05, 0.2, channels).astype(np.float32)
        self.assert_same_as_reference(other, x, (step, -8 * step, 7 * step), axis=axis)
        self.assert_same_as_reference(other, x, (step, -0.8, 7 * step), axis=axis)

    @staticmethod
    def assert_same_as_reference(other: Case, x: np.ndarray, parameters: tuple, axis: int | None = None) -> None:
        assert_equal(other.codes(x, *parameters, axis=axis), reference.codes(x, *parameters, axis=axis))
        assert_equal(other.forward(x, *parameters, axis=axis), reference.forward(x, *parameters, axis=axis))

    @pytest.mark.parametrize(("dtype", "code"), [(np.float32, 0), (np.float64, 1)])
    def test_Q5_parameters_are_cast_to_the_compute_dtype(self, backend: Case, dtype: type, code: int) -> None:
        """0.1 is larger in float32 than in float64, so that half a float32 step is a tie in float32 alone."""
        half = np.float32(0.5) * np.float32(0.1)
        for shape, axis in (((), None), ((1,), 0)):
            step, lower, upper = (np.full(shape, value) for value in (0.1, -1.0, 1.0))
            assert_equal(backend.codes(np.array([half], dtype), step, lower, upper, axis=axis), np.int32([code]))
            values = backend.forward(np.array([0.3], dtype), step, lower, upper, axis=axis)
            assert_equal(values, np.array([3], dtype) * dtype(0.1))

    def test_Q5_float64_input_is_computed_in_float64(self, backend: Case) -> None:
        x = np.array([0.5 - 2**-40, 0.5, 0.5 + 2**-40])
        assert_equal(backend.codes(x, 1.0, 0.0, 3.0), np.int32([0, 0, 1]))
        assert_equal(backend.forward(x, 1.0, 0.0, 3.0), np.array([0.0, 0.0, 1.0]))

    def test_Q5_every_float16_is_computed_in_float32_and_cast_once(self, backend: Case) -> None:
        x = np.arange(2**16, dtype=np.uint16).view(np.float16)
        setting = grid(5, signed=True, step=0.0123)
        expected = reference.forward(x.astype(np.float32), *setting.parameters)
        assert_equal(backend.forward(x, *setting.parameters), expected.astype(np.float16))

    def test_Q6_nan_and_infinities(self, backend: Case) -> None:
        x = np.float32([nan, inf, -inf, -nan])
        assert_equal(backend.codes(x, 0.5, -1.0, 1.5), np.int32([INT32_MIN, 3, -2, INT32_MIN]))
        assert_equal(backend.forward(x, 0.5, -1.0, 1.5), np.float32([nan, 1.5, -1.0, nan]))
        channels = np.float32([0.5, 0.5])
        assert_equal(
            backend.forward(x.reshape(2, 2), channels, -2 * channels, 3 * channels, axis=0),
            np.float32([[nan, 1.5], [-1.0, nan]]),
        )

    def test_Q6_largest_code(self, backend: Case) -> None:
        assert_equal(backend.codes(np.float32([inf, -inf]), 0.5, -(2.0**23), 2.0**23), np.int32([2**24, -(2**24)]))

    def test_Q6_negative_zero_is_allowed(self, backend: Case) -> None:
        assert_equal(backend.codes(np.float32([-0.0, 0.3]), 0.5, -0.0, 1.0), np.int32([0, 1]))

    def test_Q6_a_range_of_zero_gives_zero(self, backend: Case) -> None:
        assert_equal(backend.forward(np.float32([-3, 0, 3]), 0.5, 0.0, 0.0), np.float32([0, 0, 0]))

    @pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4)])
    def test_Q6_empty_stays_empty(self, backend: Case, shape: tuple[int, ...]) -> None:
        assert_equal(backend.codes(np.empty(shape, np.float32), 0.5, -1.0, 1.5), np.empty(shape, np.int32))
        assert_equal(backend.forward(np.empty(shape, np.float32), 0.5, -1.0, 1.5), np.empty(shape, np.float32))

    @pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.complex64])
    def test_Q6_integers_and_other_dtypes_raise(self, backend: Case, dtype: type) -> None:
        for function in (backend.codes, backend.forward):
            with pytest.raises(TypeError, match=np.dtype(dtype).name):
                function(np.ones(3, dtype), 0.5, -1.0, 1.5)

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ((0.0, -1.0, 1.0), r"step must be positive.*step=0\.0"),
            ((-0.5, -1.0, 1.0), r"step must be positive.*step=-0\.5"),
            ((nan, -1.0, 1.0), r"step must be positive.*step=nan"),
            ((inf, -1.0, 1.0), r"step must be positive.*step=inf"),
            ((1e-50, -1.0, 1.0), r"step must be positive and finite in float32.*step=1e-50"),
            ((0.5, nan, 1.0), r"lower must be finite.*lower=nan"),
            ((0.5, -inf, 1.0), r"lower must be finite.*lower=-inf"),
            ((0.5, 0.25, 1.0), r"lower must be finite and not above 0.*lower=0\.25"),
            ((0.5, -1.0, nan), r"upper must be finite.*upper=nan"),
            ((0.5, -1.0, inf), r"upper must be finite.*upper=inf"),
            ((0.5, -1.0, -0.25), r"upper must be finite and not below 0.*upper=-0\.25"),
            ((0.5, -1.0, 1e300), r"upper must be finite.*upper=1e\+300"),
            ((0.5, 2.0, 1.0), r"lower must be .*lower=2\.0"),
            ((2.0**-24, 0.0, 1.5), r"upper.*step.*2\*\*24.*upper=1\.5"),
            ((2.0**-24, -1.5, 1.0), r"lower.*step.*2\*\*24.*lower=-1\.5"),
        ],
    )
    def test_Q6_bad_parameters_raise(self, backend: Case, parameters: tuple, message: str) -> None:
        x = np.ones(3, np.float32)
        for function in (backend.codes, backend.forward):
            with pytest.raises(ValueError, match=message):
                function(x, *parameters)
            if backend.device == "cpu":  # elsewhere reading a tensor would wait for the device (Q7)
                with pytest.raises(ValueError, match=message):
                    function(x, *map(np.array, parameters))


class TestShapes:
    def test_zero_dimensional(self, backend: Case) -> None:
        assert_equal(backend.codes(np.array(0.75, np.float32), 0.5, -1.0, 1.5), np.array(2, np.int32))
        assert_equal(backend.forward(np.array(0.75, np.float32), 0.5, -1.0, 1.5), np.array(1.0, np.float32))

    @pytest.mark.parametrize("axis", [None, 0, 1, 2, 3, -2])
    @pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels_last", "every_second", "broadcast"])
    def test_layouts(self, backend: Case, layout: str, axis: int | None) -> None:
        x = np.random.default_rng(0).standard_normal((4, 6, 4, 2)).astype(np.float32)
        view = {
            "contiguous": x,
            "transposed": x.transpose(2, 1, 0, 3),
            "channels_last": np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
            "every_second": x[:, ::2],
            "broadcast": np.lib.stride_tricks.as_strided(x, x.shape, (x.strides[0], 0, *x.strides[2:])),
        }[layout]
        step = 0.3 if axis is None else np.linspace(0.1, 0.5, view.shape[axis], dtype=np.float32)
        expected = np.ascontiguousarray(view)
        result = backend.forward(view, step, -1.0, 1.0, axis=axis)
        assert_equal(result, backend.forward(expected, step, -1.0, 1.0, axis=axis))
        if layout == "channels_last":
            assert result.strides == view.strides

    def test_one_channel(self, backend: Case) -> None:
        x = np.float32([[[0.3], [0.8]]])
        one = np.float32([0.5])
        assert_equal(backend.codes(x, one, -2 * one, 3 * one, axis=2), np.int32([[[1], [2]]]))

    @pytest.mark.parametrize(
        ("step", "axis", "message"),
        [
            (np.ones(3, np.float32), None, "step has shape .3,. but no axis"),
            (np.ones(3, np.float32), 0, "step has shape .3,., expected .. or .2,."),
            (np.ones((2, 3), np.float32), 1, "step has shape .2, 3."),
            (0.5, 2, "axis=2 does not exist"),
            (0.5, -3, "axis=-3 does not exist"),
        ],
    )
    def test_a_shape_that_does_not_fit_raises(
        self, backend: Case, step: object, axis: int | None, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            backend.forward(np.ones((2, 3), np.float32), step, -1.0, 1.5, axis=axis)

    def test_out_receives_the_values(self, backend: Case) -> None:
        x = np.float32([0.3, 0.8])
        out = backend.native(np.empty(2, np.float32))
        assert backend.module.forward(backend.native(x), 0.5, -1.0, 1.5, out=out) is out
        assert [float(value) for value in out] == [0.5, 1.0]

    @pytest.mark.parametrize("wrong", [np.empty((2, 2), np.float32), np.empty(1, np.float32), np.empty(2, np.float64)])
    def test_an_out_that_does_not_fit_raises(self, backend: Case, wrong: np.ndarray) -> None:
        with pytest.raises(ValueError, match="out has"):
            backend.module.forward(backend.native(np.ones(2, np.float32)), 0.5, -1.0, 1.5, out=backend.native(wrong))


class TestTruncatedCodes:
    """Nested codes by truncation are the same primitive, with nothing masked."""

    @pytest.mark.parametrize("k", range(1, 7))
    def test_floor_of_every_byte(self, backend: Case, k: int) -> None:
        h, d = np.arange(256, dtype=np.float32), 2**k
        shift = (d - 1) / 2
        x, parameters = h - np.float32(shift), (float(d), -shift, 255 - shift)
        assert_equal(backend.codes(x, *parameters), np.arange(256, dtype=np.int32) // d)
        assert parameters[1] <= x.min()
        assert x.max() <= parameters[2]
