"""Checking of parameters where they are set, and the small functions of the contract: Q5, Q6, G2, G5."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from backends.contract import (
    Gradients,
    check_axis,
    check_parameters,
    lsq_gradient_factor,
    lsq_step_gradient,
    pact_alpha_gradient,
    pact_alpha_gradient_full_chain,
)


class TestCheckParameters:
    @pytest.mark.parametrize(
        "make",
        [
            float,
            np.float32,
            np.array,
            torch.tensor,
            lambda value: torch.tensor(value, dtype=torch.bfloat16),
            lambda value: torch.nn.Parameter(torch.tensor([value])),
            lambda value: [value, value],
        ],
        ids=["float", "numpy_scalar", "numpy", "tensor", "bfloat16", "parameter", "list"],
    )
    def test_Q6_every_kind_of_number(self, make: object) -> None:
        check_parameters(make(0.5), make(-1.0), make(1.5))
        with pytest.raises(ValueError, match=r"step=-0\.5"):
            check_parameters(make(-0.5), make(-1.0), make(1.5))

    def test_Q6_names_the_channel(self) -> None:
        with pytest.raises(ValueError, match=r"upper must be .*got upper=-2\.0 in channel 2$"):
            check_parameters(0.5, -1.0, torch.tensor([1.0, 2.0, -2.0, -3.0]))

    def test_Q6_checks_what_it_is_given(self) -> None:
        check_parameters()
        check_parameters(lower=-1.0)
        with pytest.raises(ValueError, match=r"lower=1\.0"):
            check_parameters(lower=1.0)

    def test_Q6_different_numbers_of_channels_raise(self) -> None:
        with pytest.raises(ValueError, match=r"different numbers of channels: \[2, 3\]"):
            check_parameters([0.5, 0.5], -1.0, [1.0, 1.0, 1.0])

    def test_Q6_no_channels_is_fine(self) -> None:
        check_parameters(np.empty(0), -1.0, np.empty(0))

    def test_Q5_what_counts_is_the_value_in_the_compute_dtype(self) -> None:
        for parameters in ((1e-50, -1e-50, 1e-50), (1.0, -1e300, 0.0), (1.0, 0.0, 1e300)):
            with pytest.raises(ValueError, match="in float32"):
                check_parameters(*parameters)
        check_parameters(1e-50, -1e-50, 1e-50, dtype="float64")


def test_check_axis_counts_from_zero() -> None:
    assert check_axis(-1, (2, 3), step=(3,), lower=()) == 1
    assert check_axis(None, (2, 3), step=()) is None


GRADIENTS = Gradients(x=None, step=np.array([1.0, 2.0]), lower=np.array([3.0, 4.0]), upper=np.array([5.0, 6.0]))


def test_G2_lsq_step() -> None:
    np.testing.assert_array_equal(lsq_step_gradient(GRADIENTS, q_min=-2, q_max=1), [0.0, 0.0])


def test_G2_pact_alpha_with_the_step_detached_and_by_its_own_name_without() -> None:
    np.testing.assert_array_equal(pact_alpha_gradient(GRADIENTS), [5.0, 6.0])
    np.testing.assert_array_equal(pact_alpha_gradient_full_chain(GRADIENTS, bits=1), [6.0, 8.0])


def test_G5_lsq_gradient_factor() -> None:
    assert lsq_gradient_factor(count=64, q_max=7) == 1 / math.sqrt(448)
