"""The homogeneous quantizer: the paper's ranges by hand, set once and then frozen, gradients of the input alone."""

from __future__ import annotations

import math

import pytest
import torch

from backends import Scaler
from repro.quantizers.static import StaticQuantizer, percentile, setting_ranges, three_sigma


def largest(x: torch.Tensor) -> torch.Tensor:
    return x.abs().amax()


class TestRanges:
    def test_three_sigma_is_the_farther_end(self) -> None:
        x = torch.tensor([-5.0, -1.0, 0.0])
        mu, sigma = -2.0, math.sqrt((9 + 1 + 4) / 3)
        assert three_sigma(x).item() == pytest.approx(max(abs(mu - 3 * sigma), abs(mu + 3 * sigma)), rel=1e-6)

    def test_percentile_is_that_of_magnitudes(self) -> None:
        x = torch.arange(1.0, 10_001.0) * (-1) ** torch.arange(10_000)
        assert percentile(x[torch.randperm(10_000, generator=torch.Generator().manual_seed(0))]).item() == 9990

    @pytest.mark.parametrize(("signed", "levels", "lower"), [(True, 3, -6.0), (False, 7, 0.0)])
    def test_codes_by_sign(self, signed: bool, levels: int, lower: float) -> None:
        quantizer = StaticQuantizer(3, signed, largest)
        with setting_ranges(quantizer):
            quantizer(torch.tensor([-6.0, 1.0]))
        assert (quantizer.q, quantizer.lower.item(), quantizer.upper.item()) == (levels, lower, 6.0)
        assert quantizer.step.item() == torch.tensor(6.0).div(levels).item()

    def test_zeros_get_the_range_one(self) -> None:
        quantizer = StaticQuantizer(2, True, three_sigma)
        with setting_ranges(quantizer):
            assert quantizer(torch.zeros(3)).tolist() == [0.0] * 3
        assert quantizer.upper.item() == 1.0

    def test_set_on_the_first_batch_and_then_frozen(self) -> None:
        quantizer = StaticQuantizer(2, True, largest)
        with setting_ranges(quantizer):
            quantizer(torch.tensor([3.0]))
        assert quantizer(torch.tensor([-100.0, 1.4])).tolist() == [-3.0, 0.0]
        assert quantizer.upper.item() == 3.0

    def test_an_unset_one_refuses(self) -> None:
        with pytest.raises(ValueError, match="step"):
            StaticQuantizer(2, True, largest)(torch.ones(2))

    @pytest.mark.parametrize(("bits", "signed"), [(1, True), (0, False), (25, False)])
    def test_impossible_bits(self, bits: int, signed: bool) -> None:
        with pytest.raises(ValueError, match=f"bits={bits}"):
            StaticQuantizer(bits, signed, largest)


class TestGradients:
    def test_scaled_inside_and_none_outside(self) -> None:
        quantizer = StaticQuantizer(2, True, largest, Scaler("ewgs", delta=0.1))
        with setting_ranges(quantizer):
            quantizer(torch.tensor([1.0]))
        x = torch.tensor([-2.0, 0.25, 0.75, 1.0], requires_grad=True)
        quantizer(x).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == pytest.approx([0.0, 1.025, 0.975, 1.0])

    def test_noise_is_drawn_for_gradients_alone(self) -> None:
        drawn: list[int] = []

        def noise(x: torch.Tensor) -> torch.Tensor:
            drawn.append(x.numel())
            return torch.full_like(x, 0.5)

        quantizer = StaticQuantizer(2, True, largest, Scaler("uniform_noise", delta=0.1), noise)
        with setting_ranges(quantizer), torch.no_grad():
            quantizer(torch.tensor([1.0]))
        assert drawn == []
        x = torch.tensor([0.3, 0.4], requires_grad=True)
        quantizer(x).sum().backward()
        assert x.grad is not None
        assert (drawn, x.grad.tolist()) == ([2], pytest.approx([1.05, 1.05]))

    def test_the_range_is_part_of_the_state(self) -> None:
        one, other = StaticQuantizer(2, True, largest), StaticQuantizer(2, True, largest)
        with setting_ranges(one):
            one(torch.tensor([3.0]))
        other.load_state_dict(one.state_dict())
        assert other(torch.tensor([2.0])).item() == 3.0
