"""The four gradients of every backend: clauses G1 and G3, and Q5 and Q6 where they concern gradients."""

from __future__ import annotations

from functools import partial
from itertools import product
from math import inf, nan

import numpy as np
import pytest

from backends import Scaler, reference
from backends.contract import NOISE_CONTROLS, SCALERS
from tests.backends import tolerances
from tests.backends.cases import Case, assert_equal
from tests.strategies import grid, random_values, tie_grid

STE = Scaler("ste")

# Worked by hand in numbers that float32 holds exactly: step 0.5, range -1 .. 1.5.
X = [-9.0, -1.0, -0.75, -0.375, -0.25, 0.0, 0.25, 0.375, 0.75, 1.25, 1.5, 1.6, inf, -inf]
G = [1.0, 2.0, 1.0, -1.0, 1.0, -2.0, 1.0, 1.0, -1.0, 1.0, 2.0, -4.0, 1.0, -2.0]
INSIDE = [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
MULTIPLIERS = {  # delta = 1; the errors e are 0, 0, .5, .25, -.5, 0, .5, -.25, -.5, .5, 0, 0, 0, 0
    "ste": [1.0] * 14,
    "pbgs": [1.0, 1.0, 1.5, 1.25, 1.5, 1.0, 1.5, 1.25, 1.5, 1.5, 1.0, 1.0, 1.0, 1.0],
    "ewgs": [1.0, 1.0, 1.5, 0.75, 0.5, 1.0, 1.5, 0.75, 1.5, 1.5, 1.0, 1.0, 1.0, 1.0],
}
STEP_GRADIENTS = {"ste": -1.0, "pbgs": -1.125, "ewgs": -0.875}


class TestVectors:
    @pytest.mark.parametrize("name", MULTIPLIERS)
    def test_all_four(self, backend: Case, name: str) -> None:
        gradients = backend.backward(np.float32(G), np.float32(X), 0.5, -1.0, 1.5, scaler=Scaler(name, delta=1.0))
        assert_equal(gradients.x, np.float32(G) * np.float32(MULTIPLIERS[name]) * np.float32(INSIDE))
        assert_equal(gradients.step, np.array(STEP_GRADIENTS[name], np.float32))
        assert_equal(gradients.lower, np.array(-1.0, np.float32))
        assert_equal(gradients.upper, np.array(-3.0, np.float32))

    def test_bounds_between_levels(self, backend: Case) -> None:
        """Clipped elements have a rounding error too where a bound is no level: v = 1.75 and -1.25 here."""
        x, g = np.float32([5.0, -5.0]), np.float32([1.0, -2.0])
        gradients = backend.backward(g, x, 0.5, -0.625, 0.875, scaler=Scaler("ewgs", delta=1.0))
        assert_equal(gradients.x, np.float32([0.0, 0.0]))
        assert_equal(gradients.step, np.array(-0.4375, np.float32))
        assert_equal(gradients.lower, np.array(-2.5, np.float32))
        assert_equal(gradients.upper, np.array(0.75, np.float32))

    def test_a_quotient_far_below_a_step(self, backend: Case) -> None:
        """Its code is 0, and what STE adds to the gradient of the step is -v itself."""
        x = np.float32([1e-30])
        gradients = backend.backward(np.ones_like(x), x, 200.0, -800.0, 800.0, scaler=STE)
        np.testing.assert_allclose(gradients.step, np.float32(-5e-33), rtol=1e-6)

    def test_per_channel(self, backend: Case) -> None:
        x = np.float32([[0.375, 0.375], [9.0, -9.0], [-9.0, -9.0]])
        g = np.float32([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        step, lower, upper = np.float32([0.5, 0.25]), np.float32([-1.0, 0.0]), np.float32([1.5, 0.5])
        gradients = backend.backward(g, x, step, lower, upper, scaler=STE, axis=1)
        assert_equal(gradients.x, np.float32([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]))
        assert_equal(gradients.step, np.float32([0.25, 1.0]))
        assert_equal(gradients.lower, np.float32([5.0, 10.0]))
        assert_equal(gradients.upper, np.float32([3.0, 0.0]))

    def test_per_channel_and_per_tensor_may_be_mixed(self, backend: Case) -> None:
        x, g = np.float32([[0.375, 9.0], [-9.0, -9.0]]), np.float32([[1.0, 3.0], [5.0, 6.0]])
        gradients = backend.backward(g, x, 0.5, -1.0, np.float32([1.5, 1.0]), scaler=STE, axis=1)
        assert_equal(gradients.step, np.array(0.25, np.float32))
        assert_equal(gradients.lower, np.array(11.0, np.float32))
        assert_equal(gradients.upper, np.float32([0.0, 3.0]))

    @pytest.mark.parametrize("axis", [None, 0, 1])
    @pytest.mark.parametrize("needs", list(product((False, True), repeat=3)))
    def test_what_is_not_needed_is_left_out_and_changes_nothing(
        self, backend: Case, needs: tuple[bool, bool, bool], axis: int | None
    ) -> None:
        x, g = np.float32(X * 6).reshape(12, 7), np.float32(G * 6).reshape(12, 7)
        step = np.float32(0.5) if axis is None else np.full(x.shape[axis], 0.5, np.float32)
        run = partial(backend.backward, g, x, step, -1.0, 1.5, scaler=Scaler("ewgs", delta=1.0), axis=axis)
        every, some = run(), run(needs=needs)
        assert_equal(some.x, every.x)
        for needed, ours, expected in zip(needs, some[1:], every[1:], strict=True):
            if needed:
                assert_equal(ours, expected)
            else:
                assert ours is None


class TestMask:
    """G1: closed at both ends, from x alone; the same under every release of torch."""

    @pytest.mark.parametrize("per_channel", [False, True], ids=["per_tensor", "per_channel"])
    def test_G1_mask_is_closed_at_both_ends(self, backend: Case, per_channel: bool) -> None:
        lower, upper = np.float32([-0.7, 1.1])
        beyond = [np.nextafter(lower, np.float32(-inf)), np.nextafter(upper, np.float32(inf))]
        x = np.float32([[beyond[0]], [lower], [0.0], [upper], [beyond[1]]])
        parameters = [np.float32([0.1]), lower[None], upper[None]] if per_channel else [0.1, float(lower), float(upper)]
        axis = 1 if per_channel else None
        gradients = backend.backward(np.ones_like(x), x, *parameters, scaler=STE, axis=axis)
        assert_equal(gradients.x, np.float32([[0], [1], [1], [1], [0]]))
        assert gradients.lower.item() == 1
        assert gradients.upper.item() == 1

    def test_G1_bounds_given_as_arrays_and_as_numbers_mask_alike(self, backend: Case) -> None:
        x = np.float32([-1.0, 0.3, 1.5])
        arrays = map(np.float32, ([0.5], [-1.0], [1.5]))
        as_arrays = backend.backward(np.ones_like(x)[None], x[None], *arrays, scaler=STE, axis=0)
        as_numbers = backend.backward(np.ones_like(x), x, 0.5, -1.0, 1.5, scaler=STE)
        assert_equal(as_numbers.x, np.float32([1, 1, 1]))
        assert_equal(as_arrays.x, as_numbers.x[None])

    def test_G1_every_weight_on_the_lowest_two_bit_level_keeps_its_gradient(self, backend: Case) -> None:
        """A mask open at the bound would drop them all: what a published LSQ re-implementation lost 10 points by."""
        x = np.full(1000, -2.0, np.float32)
        assert np.all(backend.backward(np.ones_like(x), x, 1.0, -2.0, 1.0, scaler=STE).x == 1)

    def test_G1_no_gradient_passes_beyond_the_range(self, backend: Case) -> None:
        x = np.float32([-2.5, 1.5, inf, -inf])
        assert np.all(backend.backward(np.ones_like(x), x, 1.0, -2.0, 1.0, scaler=STE).x == 0)

    def test_G1_masked_gradients_are_zero_even_where_the_incoming_one_is_not_finite(self, backend: Case) -> None:
        x, g = np.float32([-9.0, 0.3, 9.0]), np.float32([inf, 1.0, nan])
        assert_equal(backend.backward(g, x, 0.5, -1.0, 1.5, scaler=STE).x, np.float32([0, 1, 0]))


SCALER_FORMS = [Scaler(name, form=form) for name, form in product(SCALERS, ("printed", "normalised"))]


class TestAgainstFloat64:
    """Each backend in float32, and the reference among them, against the reference in float64."""

    @pytest.mark.parametrize("scaler", SCALER_FORMS, ids=lambda s: f"{s.name}-{s.form}")
    @pytest.mark.parametrize("axis", [None, 0, 2], ids=["per_tensor", "axis0", "axis2"])
    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_gradients(self, backend: Case, scaler: Scaler, axis: int | None, bits: int) -> None:
        generator = np.random.default_rng(bits)
        setting = grid(bits, signed=bits != 4, step=0.1)
        x = random_values(setting, (16, 9, 64), generator)
        g = generator.standard_normal(x.shape, dtype=np.float32)
        parameters = list(np.float32(setting.parameters))
        if axis is not None:
            factors = np.linspace(0.6, 1.7, x.shape[axis], dtype=np.float32)
            parameters = [parameter * factors for parameter in parameters]
        self.check(backend, g, x, parameters, scaler, axis)

    @pytest.mark.parametrize(("shape", "axis"), [((100_003,), None), ((5, 3, 7001), 1), ((6001, 17), 1)])
    def test_sums_over_many_blocks(self, backend: Case, shape: tuple[int, ...], axis: int | None) -> None:
        """Of one grid; of channels that are runs; of channels that are columns."""
        generator, setting = np.random.default_rng(0), grid(4, signed=True, step=0.1)
        x, g = random_values(setting, shape, generator), generator.standard_normal(shape, dtype=np.float32)
        parameters = list(np.float32(setting.parameters))
        if axis is not None:
            factors = np.linspace(0.6, 1.7, shape[axis], dtype=np.float32)
            parameters = [parameter * factors for parameter in parameters]
        self.check(backend, g, x, parameters, Scaler("ewgs", delta=0.2), axis)

    def test_gradients_on_the_tie_grid(self, backend: Case) -> None:
        """With a power of two for a step both precisions see the same v, ties and all."""
        setting = grid(5, signed=True, step=0.25)
        x = tie_grid(setting)
        g = np.random.default_rng(0).standard_normal(x.shape, dtype=np.float32)
        for scaler in SCALER_FORMS:
            assert self.check(backend, g, x, list(np.float32(setting.parameters)), scaler, None) == 0

    @staticmethod
    def check(
        backend: Case, g: np.ndarray, x: np.ndarray, parameters: list[np.ndarray], scaler: Scaler, axis: int | None
    ) -> int:
        """Compare within the tolerance table; returns the number of elements that only one precision rounds up.

        Those lie within the rounding of v from a tie, where e jumps from -0.5 to 0.5: they get no gradient here.
        """
        wide = [parameter.astype(np.float64) for parameter in parameters]
        along = (1,) * x.ndim if axis is None else tuple(-1 if d == axis else 1 for d in range(x.ndim))
        step, lower, upper = (parameter.reshape(along) for parameter in wide)
        v = np.clip(x, lower, upper) / step
        differ = reference.codes(x, *parameters, axis=axis) != np.rint(v)
        assert np.all(np.abs(np.abs(v - np.rint(v)) - 0.5)[differ] <= 2 * tolerances.U * np.abs(v[differ]))
        g = np.where(differ, np.float32(0), g)

        ours = backend.backward(g, x, *parameters, scaler=scaler, axis=axis)
        oracle = reference.backward(g.astype(np.float64), x.astype(np.float64), *wide, scaler=scaler, axis=axis)
        g = g.astype(np.float64)
        s = reference.multiplier(scaler, g, v - np.rint(v))
        s_bound = tolerances.multiplier(scaler, s, v)
        axes = tuple(d for d in range(x.ndim) if d != axis)
        dx_bound, terms = tolerances.dx(g, s, s_bound), g * (np.rint(v) - s * v)
        bounds = {
            "x": dx_bound,
            "step": tolerances.sums(terms, tolerances.step_terms(g, s, v, s_bound), axes),
            "lower": tolerances.sums(np.where(x < lower, g * s, 0), np.where(x < lower, dx_bound, 0), axes),
            "upper": tolerances.sums(np.where(x > upper, g * s, 0), np.where(x > upper, dx_bound, 0), axes),
        }
        for name, bound in bounds.items():
            found, expected = getattr(ours, name), getattr(oracle, name)
            assert found.dtype == np.float32
            assert found.shape == expected.shape
            assert np.all(np.abs(found - expected) <= bound), name
        return int(differ.sum())


class TestSums:
    def test_G3_a_running_sum_would_be_noticed(self) -> None:
        """A million equal terms added one after the other in float32 miss the bound that G3 is tested with."""
        terms = np.full(2**20, 0.1, np.float32)
        exact = float(terms[0]) * terms.size
        assert abs(float(np.cumsum(terms)[-1]) - exact) > 100 * self.bound(terms)

    def test_G3_sums_are_pairwise_or_better(self, backend: Case) -> None:
        g = np.full(2**20, 0.1, np.float32)
        exact = float(g[0]) * g.size
        above = backend.backward(g, np.full_like(g, 9.0), 0.5, -1.0, 1.5, scaler=STE)
        below = backend.backward(g, np.full_like(g, -9.0), 0.5, -1.0, 1.5, scaler=STE)
        tied = backend.backward(g, np.full_like(g, 0.25), 0.5, -1.0, 1.5, scaler=STE)  # each term is -g / 2
        for found, expected in ((above.upper, exact), (below.lower, exact), (tied.step, -exact / 2)):
            assert abs(float(found) - expected) <= self.bound(g)

    @pytest.mark.parametrize("axis", [0, 1])
    def test_G3_sums_per_channel_are_pairwise_or_better(self, backend: Case, axis: int) -> None:
        g = np.full((2**20, 2) if axis else (2, 2**20), 0.1, np.float32)
        channels = np.full(2, 0.5, np.float32)
        gradients = backend.backward(
            g, np.full_like(g, 9.0), channels, -2 * channels, 3 * channels, scaler=STE, axis=axis
        )
        exact = float(g[0, 0]) * 2**20
        assert gradients.upper.shape == (2,)
        assert np.all(np.abs(gradients.upper - exact) <= self.bound(g[:, 0] if axis else g[0]))

    @staticmethod
    def bound(terms: np.ndarray) -> float:
        wide = terms.astype(np.float64)
        return float(tolerances.sums(wide, np.zeros_like(wide), (0,)))

    @pytest.mark.parametrize("axis", [None, 1])
    def test_G3_the_same_from_run_to_run(self, backend: Case, axis: int | None) -> None:
        generator = np.random.default_rng(0)
        x = generator.standard_normal((64, 8, 500), dtype=np.float32)
        g = generator.standard_normal(x.shape, dtype=np.float32)
        step = 0.3 if axis is None else np.linspace(0.1, 0.5, 8, dtype=np.float32)
        first, second = (backend.backward(g, x, step, -1.0, 1.0, scaler=STE, axis=axis) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert a.tobytes() == b.tobytes()


class TestShapesAndDtypes:
    def test_zero_dimensional(self, backend: Case) -> None:
        gradients = backend.backward(np.array(2.0, np.float32), np.array(0.375, np.float32), 0.5, -1.0, 1.5, scaler=STE)
        assert_equal(gradients.x, np.array(2.0, np.float32))
        assert_equal(gradients.step, np.array(0.5, np.float32))

    @pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 3)])
    def test_Q6_empty_gives_empty_and_zero(self, backend: Case, shape: tuple[int, ...]) -> None:
        empty = np.empty(shape, np.float32)
        gradients = backend.backward(empty, empty, 0.5, -1.0, 1.5, scaler=STE)
        assert_equal(gradients.x, empty)
        for gradient in gradients[1:]:
            assert_equal(gradient, np.array(0.0, np.float32))
        channels = np.full(shape[-1], 0.5, np.float32)
        per_channel = backend.backward(empty, empty, channels, -1.0, 3 * channels, scaler=STE, axis=-1)
        assert_equal(per_channel.step, np.zeros_like(channels))

    def test_one_channel_keeps_its_axis(self, backend: Case) -> None:
        x, one = np.float32([[0.375], [9.0]]), np.float32([0.5])
        gradients = backend.backward(np.ones_like(x), x, one, -2 * one, 3 * one, scaler=STE, axis=1)
        assert_equal(gradients.step, np.float32([0.25]))
        assert_equal(gradients.upper, np.float32([1.0]))

    def test_every_element_its_own_channel(self, backend: Case) -> None:
        x, channels = np.float32([0.375, 9.0]), np.float32([0.5, 0.5])
        gradients = backend.backward(np.ones_like(x), x, channels, -2 * channels, 3 * channels, scaler=STE, axis=0)
        assert_equal(gradients.step, np.float32([0.25, 0.0]))
        assert_equal(gradients.upper, np.float32([0.0, 1.0]))

    @pytest.mark.parametrize("axis", [None, 0, 1, -1])
    def test_layouts(self, backend: Case, axis: int | None) -> None:
        """Views of x and grad, in different layouts, give what their contiguous copies give."""
        generator = np.random.default_rng(0)
        x = generator.integers(-16, 16, (4, 6, 8)).astype(np.float32) / 8  # sums of eighths are exact in any order
        g = generator.integers(-4, 4, (8, 6, 4)).astype(np.float32)
        views = x[:, ::2], g.transpose(2, 1, 0)[:, 1::2]
        step = 0.5 if axis is None else np.full(views[0].shape[axis], 0.5, np.float32)
        copies = map(np.ascontiguousarray, views[::-1])
        of_views = backend.backward(*views[::-1], step, -1.0, 1.5, scaler=STE, axis=axis)
        of_copies = backend.backward(*copies, step, -1.0, 1.5, scaler=STE, axis=axis)
        for a, b in zip(of_views, of_copies, strict=True):
            assert_equal(a, b)

    def test_out_receives_dx(self, backend: Case) -> None:
        x, g = (backend.native(np.float32(values)) for values in ([0.375, 9.0], [2.0, 1.0]))
        out = backend.native(np.empty(2, np.float32))
        assert backend.module.backward(g, x, 0.5, -1.0, 1.5, scaler=STE, out=out).x is out
        assert [float(value) for value in out] == [2.0, 0.0]

    def test_a_grad_of_another_shape_raises(self, backend: Case) -> None:
        with pytest.raises(ValueError, match="grad has shape"):
            backend.backward(np.ones(1, np.float32), np.ones(2, np.float32), 0.5, -1.0, 1.5, scaler=STE)

    def test_Q5_float16_gradients_are_computed_in_float32(self, backend: Case) -> None:
        generator = np.random.default_rng(0)
        x, g = (generator.standard_normal(4096).astype(np.float16) for _ in range(2))
        half = backend.backward(g, x, 0.3, -0.9, 0.9, scaler=Scaler("ewgs", delta=0.2))
        full = backend.backward(
            g.astype(np.float32), x.astype(np.float32), 0.3, -0.9, 0.9, scaler=Scaler("ewgs", delta=0.2)
        )
        assert_equal(half.x, full.x.astype(np.float16))
        for a, b in zip(half[1:], full[1:], strict=True):
            if backend.device == "cuda":  # which adds the terms in another order
                largest = 7 * np.abs(g, dtype=np.float64)  # |round(v) - s v| is less
                assert a.dtype == b.dtype
                assert abs(a - b) <= 2 * tolerances.sums(largest, np.zeros(g.shape), (0,))
            else:
                assert_equal(a, b)

    def test_Q6_nan_in_x_gets_no_gradient_and_shows_in_that_of_the_step(self, backend: Case) -> None:
        gradients = backend.backward(np.float32([1, 1]), np.float32([nan, 9.0]), 0.5, -1.0, 1.5, scaler=STE)
        assert_equal(gradients.x, np.float32([0, 0]))
        assert np.isnan(gradients.step)
        assert_equal(gradients.upper, np.array(1.0, np.float32))
        assert_equal(gradients.lower, np.array(0.0, np.float32))

    def test_Q6_bad_parameters_raise(self, backend: Case) -> None:
        with pytest.raises(ValueError, match=r"step=0\.0"):
            backend.backward(np.ones(2, np.float32), np.ones(2, np.float32), 0.0, -1.0, 1.5, scaler=STE)


class TestNoise:
    @pytest.mark.parametrize("name", NOISE_CONTROLS)
    def test_S4_noise_takes_the_place_of_the_error(self, backend: Case, name: str) -> None:
        x, g = np.float32([0.375, -0.25, 9.0]), np.float32([1.0, -2.0, 4.0])
        noise, scaler = np.float32([0.5, -0.25, 1.0]), Scaler(name, delta=0.5)
        assert_equal(backend.multiplier(scaler, g, np.zeros_like(g), noise), np.float32([1.25, 0.875, 1.5]))
        gradients = backend.backward(g, x, 0.5, -1.0, 1.5, scaler=scaler, noise=noise)
        assert_equal(gradients.x, np.float32([1.25, -1.75, 0.0]))
        assert_equal(gradients.upper, np.array(6.0, np.float32))

    def test_Q5_noise_and_grad_are_cast_to_the_compute_dtype(self, backend: Case) -> None:
        x, scaler = np.float32([0.375, 9.0]), Scaler("uniform_noise")
        for dtype in (np.float16, np.float64):
            grad, noise = np.array([1.0, -2.0], dtype), np.array([0.5, 0.25], dtype)
            for gradient in backend.backward(grad, x, 0.5, -1.0, 1.5, scaler=scaler, noise=noise):
                assert gradient.dtype == np.float32

    @pytest.mark.parametrize(
        ("name", "noise", "message"),
        [
            ("uniform_noise", None, "needs noise"),
            ("gaussian_noise", np.float32([0.1]), "noise has shape"),
            ("ewgs", np.float32([0.1, 0.1]), "takes no noise"),
        ],
    )
    def test_S4_noise_is_given_exactly_where_it_is_used(
        self, backend: Case, name: str, noise: np.ndarray | None, message: str
    ) -> None:
        x = np.ones(2, np.float32)
        with pytest.raises(ValueError, match=message):
            backend.backward(x, x, 0.5, -1.0, 1.5, scaler=Scaler(name), noise=noise)
        with pytest.raises(ValueError, match=message):
            backend.multiplier(Scaler(name), x, x, noise)
