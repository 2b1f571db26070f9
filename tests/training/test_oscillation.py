"""Oscillations of quantized weights, step by step by hand."""

from __future__ import annotations

import pytest
import torch

from repro.quantizers.static import StaticQuantizer, setting_ranges
from repro.training.oscillation import MOMENTUM, Oscillations, mean_rounding_error


@pytest.fixture
def quantizer() -> StaticQuantizer:
    quantizer = StaticQuantizer(3, signed=True, range_of=lambda x: x.abs().amax())
    with setting_ranges(quantizer):
        quantizer(torch.tensor([3.0]))
    return quantizer


def frequencies(quantizer: StaticQuantizer, *values: float) -> float:
    weight = torch.zeros(1)
    watched = Oscillations([(weight, quantizer)])
    for value in values:
        weight.fill_(value)
        watched.update()
    return watched.frequency.item()


def test_going_on_in_one_direction_is_no_oscillation(quantizer: StaticQuantizer) -> None:
    assert frequencies(quantizer, -3, -2, -1, -1, 0, 1, 1, 2) == 0


def test_turning_back_is_one_even_after_a_rest(quantizer: StaticQuantizer) -> None:
    assert frequencies(quantizer, 0, 1, 1, 1, 0) == pytest.approx(MOMENTUM)


def test_the_average_forgets(quantizer: StaticQuantizer) -> None:
    assert frequencies(quantizer, 0, 1, 0, 0) == pytest.approx(MOMENTUM * (1 - MOMENTUM))


def test_moves_within_a_code_do_not_count(quantizer: StaticQuantizer) -> None:
    assert frequencies(quantizer, 0.4, -0.4, 0.4, -0.4) == 0


def test_the_state_goes_on_where_it_was(quantizer: StaticQuantizer) -> None:
    values = (0.0, 1.0, 0.0, 1.0, 2.0, 1.0)
    weight = torch.zeros(1)
    first, second = Oscillations([(weight, quantizer)]), Oscillations([(weight, quantizer)])
    for value in values[:3]:
        weight.fill_(value)
        first.update()
    second.load_state_dict(first.state_dict())
    for value in values[3:]:
        weight.fill_(value)
        second.update()
    assert second.frequency.item() == frequencies(quantizer, *values)


def test_the_weights_are_no_parameters_of_it(quantizer: StaticQuantizer) -> None:
    watched = Oscillations([(torch.nn.Parameter(torch.zeros(3)), quantizer)])
    assert not list(watched.parameters())
    assert set(watched.state_dict()) == {"codes", "direction", "frequency"}


def test_mean_error_leaves_out_what_is_clipped(quantizer: StaticQuantizer) -> None:
    weights = [(torch.tensor([0.5, 3.0, 9.4]), quantizer), (torch.tensor([-1.25]), quantizer)]
    assert mean_rounding_error(weights) == pytest.approx((0.5 + 0 + 0.25) / 3)
