"""Weight schemes of the identification study: each against a plain NumPy computation."""

import numpy as np
import pytest
import torch

from repro.networks.quantize import set_bits
from repro.quantizers import DoReFaWeight
from repro.quantizers.schemes import RestoredScale, UnitWeight

WIDTHS = (8, 6, 4, 2, 1)


def expected(weight: np.ndarray, bits: int, rounding: str) -> np.ndarray:
    squashed = np.tanh(weight)
    t, levels = squashed / (2 * np.abs(squashed).max()) + 0.5, 2**bits
    if rounding == "nearest":
        return 2 * np.rint((levels - 1) * t) / (levels - 1) - 1
    codes = np.minimum(np.floor(levels * t), levels - 1)
    return 2 * (codes + (0.5 if rounding == "centred" else 0)) / levels - 1


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("rounding", ["nearest", "floor", "centred"])
def test_equals_numpy(rounding, bits: int) -> None:
    weight = np.random.default_rng(0).normal(0, 0.3, (16, 8, 3, 3)).astype(np.float32)
    ours = UnitWeight(rounding, bits)(torch.from_numpy(weight))
    np.testing.assert_allclose(ours.numpy(), expected(weight, bits, rounding), rtol=0, atol=3e-7)
    assert len(ours.unique()) <= 2**bits


@pytest.mark.parametrize("rounding", ["nearest", "floor", "centred"])
def test_gradient_is_straight_through(rounding) -> None:
    weight = torch.tensor([-0.5, 0.1, 0.3], requires_grad=True)
    UnitWeight(rounding, 2)(weight).sum().backward()
    largest = weight.detach().tanh().abs().max()
    torch.testing.assert_close(weight.grad, (1 - weight.detach().tanh() ** 2) / largest)


@pytest.mark.parametrize("rounding", ["nearest", "floor", "centred"])
def test_all_zero_weights_give_zeros_and_finite_gradients(rounding) -> None:
    weight = torch.zeros(4, 4, requires_grad=True)
    quantized = UnitWeight(rounding, 2)(weight)
    quantized.sum().backward()
    assert torch.equal(quantized, torch.zeros(4, 4))
    assert torch.isfinite(weight.grad).all()


def test_rounded_and_nested_codes_are_the_same_at_8_bits_and_differ_below() -> None:
    weight = torch.from_numpy(np.random.default_rng(1).normal(0, 0.3, 1000)).float()
    torch.testing.assert_close(UnitWeight("nearest", 8)(weight), DoReFaWeight(8)(weight))
    assert not torch.equal(UnitWeight("nearest", 4)(weight), DoReFaWeight(4)(weight))


def test_restored_scale_is_that_of_the_weight_and_switches_with_what_it_wraps() -> None:
    weight = torch.tensor([-0.02, 0.01, 0.005])
    restored = RestoredScale(UnitWeight("nearest"))
    assert torch.equal(restored(weight), weight)
    set_bits(restored, 2)
    assert restored(weight).abs().max().item() == pytest.approx(np.tanh(0.02))
