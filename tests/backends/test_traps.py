"""Mistakes of code in the field, shown to be mistakes, and shown not to be made here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backends import Scaler, eager, reference
from backends.autograd import fake_quantize
from tests.backends.cases import Case
from tests.strategies import grid

SETTING = grid(8, signed=True, step=0.1)
HALF_GRID = ((np.arange(SETTING.q_min, SETTING.q_max) + 0.5) * SETTING.step).astype(np.float32)


def torch_codes(x: np.ndarray) -> np.ndarray:
    """Codes by torch's own fake quantization of the same grid."""
    values = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), SETTING.step, 0, SETTING.q_min, SETTING.q_max)
    return np.rint(values.numpy() / np.float32(SETTING.step)).astype(np.int32)


def test_torch_rounds_some_ties_the_other_way_because_it_multiplies_by_the_reciprocal() -> None:
    theirs, ours = torch_codes(HALF_GRID), reference.codes(HALF_GRID, *SETTING.parameters)
    if np.array_equal(theirs, ours):
        pytest.skip(f"torch {torch.__version__} divides")
    by_reciprocal = np.rint(HALF_GRID * (np.float32(1) / np.float32(SETTING.step))).astype(np.int32)
    np.testing.assert_array_equal(theirs, by_reciprocal)


def test_torch_maps_nan_to_a_level(backend: Case) -> None:
    nan = np.float32([np.nan])
    if np.isnan(torch.fake_quantize_per_tensor_affine(torch.from_numpy(nan), 0.5, 0, -2, 1).item()):
        pytest.skip(f"torch {torch.__version__} keeps NaN")
    assert np.isnan(backend.forward(nan, 0.5, -1.0, 0.5)).all()


def test_torch_per_channel_sends_infinity_to_the_wrong_end(backend: Case) -> None:
    infinity = np.float32([[np.inf]])
    step, zero = torch.tensor([0.5]), torch.tensor([0], dtype=torch.int32)
    if torch.fake_quantize_per_channel_affine(torch.from_numpy(infinity), step, zero, 0, -2, 1).item() == 0.5:
        pytest.skip(f"torch {torch.__version__} sends it to the upper end")
    assert backend.forward(infinity, np.float32([0.5]), -1.0, 0.5, axis=0) == 0.5


def test_floor_of_a_half_more_rounds_half_of_the_ties_the_other_way(backend: Case) -> None:
    """What a peer's second backend does, hidden behind a tolerance of one code."""
    ties = np.arange(-8, 8, dtype=np.float32) + np.float32(0.5)
    codes = backend.codes(ties, 1.0, -8.0, 8.0)
    assert np.count_nonzero(np.floor(ties + np.float32(0.5)) != codes) == 8


def test_clamp_s_gradient_at_the_bound_depends_on_the_release_and_ours_does_not() -> None:
    """Whatever torch.clamp and torch.minimum say here (1, 0.5 or 0), a weight on its bound keeps its gradient."""
    for bounds in ((-1.0, 0.5), (torch.tensor(-1.0), torch.tensor(0.5)), (torch.tensor([-1.0]), torch.tensor([0.5]))):
        x = torch.tensor([[-1.0, 0.5]], requires_grad=True)
        axis = 0 if getattr(bounds[0], "ndim", 0) else None
        fake_quantize(x, 0.5, *bounds, scaler=Scaler("ste"), axis=axis).sum().backward()
        assert x.grad.tolist() == [[1.0, 1.0]]


def test_the_cross_check_compares_two_implementations() -> None:
    for name in ("codes", "forward", "backward", "multiplier"):
        assert getattr(eager, name) is not getattr(reference, name)
        assert getattr(eager, name).__module__ == "backends.eager"
        assert getattr(reference, name).__module__ == "backends.reference"
