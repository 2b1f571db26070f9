"""What holds for every quantizer, in words, over settings and inputs that Hypothesis makes up."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends import tolerances
from tests.backends.cases import Case, assert_equal
from tests.strategies import Grid, grids, inputs, symmetric_grids

quick = settings(max_examples=60)
settings_and_inputs = grids().flatmap(lambda setting: st.tuples(st.just(setting), inputs(setting)))


@quick
@given(settings_and_inputs)
def test_idempotent(backend: Case, case: tuple[Grid, np.ndarray]) -> None:
    setting, x = case
    once = backend.forward(x, *setting.parameters)
    assert_equal(backend.forward(once, *setting.parameters), once)


@quick
@given(settings_and_inputs)
def test_monotone(backend: Case, case: tuple[Grid, np.ndarray]) -> None:
    setting, x = case
    ordered = np.sort(x, axis=None)
    assert np.all(np.diff(backend.codes(ordered, *setting.parameters)) >= 0)
    assert np.all(np.diff(backend.forward(ordered, *setting.parameters)) >= 0)


@quick
@given(settings_and_inputs)
def test_no_code_outside_the_grid_so_at_most_two_to_the_bits_levels(
    backend: Case, case: tuple[Grid, np.ndarray]
) -> None:
    setting, x = case
    codes = backend.codes(x, *setting.parameters)
    assert np.all((setting.q_min <= codes) & (codes <= setting.q_max))


@quick
@given(settings_and_inputs)
def test_values_are_codes_times_step(backend: Case, case: tuple[Grid, np.ndarray]) -> None:
    setting, x = case
    codes = backend.codes(x, *setting.parameters)
    assert_equal(backend.forward(x, *setting.parameters), codes.astype(np.float32) * np.float32(setting.step))


@quick
@given(settings_and_inputs)
def test_no_further_than_half_a_step_inside(backend: Case, case: tuple[Grid, np.ndarray]) -> None:
    setting, x = case
    lower, upper = np.float32(setting.lower), np.float32(setting.upper)
    x = x[(lower <= x) & (x <= upper)]
    distance = np.abs(x.astype(np.float64) - backend.forward(x, *setting.parameters))
    assert np.all(distance <= tolerances.inside(x, setting.step))


@quick
@given(symmetric_grids().flatmap(lambda setting: st.tuples(st.just(setting), inputs(setting))))
def test_odd_where_the_range_is_symmetric(backend: Case, case: tuple[Grid, np.ndarray]) -> None:
    setting, x = case
    assert_equal(backend.forward(-x, *setting.parameters), -backend.forward(x, *setting.parameters))


@quick
@given(settings_and_inputs, st.integers(-8, 8))
def test_a_power_of_two_in_x_and_parameters_comes_out_again(
    backend: Case, case: tuple[Grid, np.ndarray], exponent: int
) -> None:
    setting, x = case
    scale = np.float32(2.0**exponent)
    x = np.where(np.abs(x) < 1e30, x, np.float32(1e30))  # so that nothing overflows ...
    x = np.where(np.abs(x) > 1e-30, x, np.float32(0))  # ... or becomes subnormal
    scaled = [float(parameter * scale) for parameter in np.float32(setting.parameters)]
    assert_equal(backend.forward(x * scale, *scaled), backend.forward(x, *setting.parameters) * scale)


@quick
@given(grids().flatmap(lambda setting: st.tuples(st.just(setting), inputs(setting, (3, 2, 4)))), st.integers(-3, 2))
def test_per_channel_equals_a_loop_of_per_tensor(backend: Case, case: tuple[Grid, np.ndarray], axis: int) -> None:
    setting, x = case
    channels = x.shape[axis]
    factors = np.linspace(0.5, 2, channels, dtype=np.float32)
    step, lower, upper = (np.float32(parameter) * factors for parameter in setting.parameters)
    together = backend.forward(x, step, lower, upper, axis=axis)
    one_by_one = [
        backend.forward(x.take(c, axis), float(step[c]), float(lower[c]), float(upper[c])) for c in range(channels)
    ]
    assert_equal(together, np.stack(one_by_one, axis=axis))
