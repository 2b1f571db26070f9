"""DoReFa weights with nested codes: against a plain NumPy computation, and the degenerate cases."""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from repro.quantizers import DoReFaWeight, dorefa
from repro.quantizers.dorefa import Stored, fixed_weights

WIDTHS = (8, 7, 6, 5, 4, 3, 2, 1)


def codes(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Stored 8-bit codes and their prefixes, by integer arithmetic."""
    squashed = np.tanh(weight)
    stored = np.rint(255 * (squashed / (2 * np.abs(squashed).max()) + 0.5)).astype(np.int64)
    return stored, (stored >> (8 - bits)) << (8 - bits)


@pytest.mark.parametrize("bits", WIDTHS)
def test_equals_integer_truncation_with_the_mean_realigned(bits: int) -> None:
    weight = np.random.default_rng(0).normal(0, 0.3, (16, 8, 3, 3))
    stored, prefix = codes(weight, bits)
    expected = 2 * (prefix / 255) * (stored.mean() / prefix.mean()) - 1
    ours = DoReFaWeight(bits)(torch.from_numpy(weight).float())
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=4e-7)  # a few float32 roundings of values below 4
    assert len(ours.unique()) <= 2**bits


def test_mean_of_the_weights_is_the_same_at_every_bit_width() -> None:
    weight = torch.from_numpy(np.random.default_rng(1).normal(0.02, 0.3, (64, 64))).float()
    means = [DoReFaWeight(bits)(weight).mean().item() for bits in WIDTHS]
    assert means == pytest.approx([means[0]] * len(means), abs=1e-5)


def test_values_do_not_depend_on_the_scale_of_small_weights() -> None:
    """No scale is restored: tanh is linear near 0, so a thousandth of a small weight quantizes to the same values."""
    weight = torch.linspace(-0.01, 0.01, 101)
    difference = DoReFaWeight(8)(weight) - DoReFaWeight(8)(weight / 1000)
    assert difference.abs().max() <= 2 / 255 + 1e-6


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("bits", [8, 2])
def test_all_zero_weights_give_zeros_and_finite_gradients(bits: int, in_graph: bool) -> None:
    weight = torch.zeros(4, 4, requires_grad=True)
    quantized = DoReFaWeight(bits, in_graph)(weight)
    quantized.sum().backward()
    assert torch.equal(quantized, torch.zeros(4, 4))
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("in_graph", [False, True])
def test_a_prefix_that_is_zero_everywhere_gives_zeros(in_graph: bool) -> None:
    weight = torch.full((3,), -1.0, requires_grad=True)  # every stored code is 0
    quantized = DoReFaWeight(2, in_graph)(weight)
    quantized.sum().backward()
    assert torch.equal(quantized, torch.zeros(3))
    assert torch.isfinite(weight.grad).all()


def test_gradient_is_straight_through_rounding() -> None:
    """With the realignment detached at 8 bits, w_q = 2 * 255 t / 255 - 1, so dw_q/dw = tanh'(w) / max|tanh w|."""
    weight = torch.tensor([-0.7, -0.2, 0.1, 0.9], requires_grad=True)
    DoReFaWeight(8, realign_in_graph=False)(weight).sum().backward()
    squashed = weight.detach().tanh()
    torch.testing.assert_close(weight.grad, (1 - squashed**2) / squashed.abs().max())


def test_no_code_is_masked_at_low_bits() -> None:
    """Truncation passes the gradient of every element, the extreme codes 0 and 255 included."""
    weight = torch.linspace(-1, 1, 41, requires_grad=True)
    DoReFaWeight(2, realign_in_graph=False)(weight).sum().backward()
    assert (weight.grad > 0).all()


def test_realignment_in_the_graph_is_another_gradient() -> None:
    gradients = []
    for in_graph in (True, False):
        weight = torch.linspace(-1, 1.5, 40, requires_grad=True)
        (DoReFaWeight(2, realign_in_graph=in_graph)(weight) ** 2).sum().backward()
        gradients.append(weight.grad)
    assert not torch.allclose(*gradients)


def test_full_precision_is_the_weight_itself() -> None:
    weight = torch.randn(3, generator=torch.Generator().manual_seed(0))
    assert DoReFaWeight(None)(weight) is weight


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


SHAPE = (64, 32, 3, 3)
KINDS = {
    "odd": drawn(7),
    "layer": drawn(*SHAPE),
    "channels-last": drawn(*SHAPE).contiguous(memory_format=torch.channels_last),
    "sums beyond 2^24": drawn(2**18),
    "zeros": torch.zeros(SHAPE),
    "codes of zero": torch.full(SHAPE, -1.0),
    "not a number": drawn(5).index_fill(0, torch.tensor(1), float("nan")),
    "infinite": drawn(5).index_fill(0, torch.tensor(1), float("inf")),
}


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_closed_gradient_is_that_of_autograd_bit_for_bit(bits: int, dtype: torch.dtype, kind: str) -> None:
    """Zeros compare as values."""
    quantizer = DoReFaWeight(bits, realign_in_graph=False)
    weight = KINDS[kind].to(dtype, copy=True).requires_grad_()
    grad = drawn(*weight.shape).to(dtype)
    values = quantizer.in_graph(weight)
    closed = quantizer(weight)
    assert closed.stride() == weight.stride()
    np.testing.assert_array_equal(closed.detach().double(), values.detach().double())
    for given in (grad, grad.flatten()[:1].reshape((1,) * grad.ndim).expand(grad.shape)):
        before = given.clone()
        ours, expected = (torch.autograd.grad(y, weight, given, retain_graph=True)[0] for y in (closed, values))
        np.testing.assert_array_equal(ours.double(), expected.double())
        assert torch.equal(given, before)


@pytest.mark.parametrize("within", [contextlib.nullcontext, fixed_weights])
def test_it_compiles_without_a_graph_break(within: Callable) -> None:
    """In a second step too, after the weights have changed; within `fixed_weights` what is kept is used."""
    quantizer, weight, grad = DoReFaWeight(4), drawn(8, 4, 3, 3).requires_grad_(), drawn(8, 4, 3, 3)
    torch._dynamo.reset()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        with torch.no_grad():
            weight.mul_(-1.5)
        with within(quantizer):
            for quantizer.bits in (4, 2):
                values, expected = compiled(weight), quantizer(weight)
                assert torch.equal(values, expected)
                found, wanted = (torch.autograd.grad(y, weight, grad)[0] for y in (values, expected))
                torch.testing.assert_close(found, wanted)
            if quantizer.kept:
                (stored,) = quantizer.kept
                quantizer.kept[0] = stored._replace(codes=torch.zeros_like(stored.codes))
                assert torch.equal(compiled(weight), quantizer(weight))
                assert not torch.equal(compiled(weight), expected)


def test_what_bit_widths_share_is_worked_out_once_within_fixed_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(weight: torch.Tensor) -> Stored:
        nonlocal calls
        calls += 1
        return stored(weight)

    stored = dorefa._stored
    monkeypatch.setattr(dorefa, "_stored", counted)
    quantizer = DoReFaWeight(realign_in_graph=False)
    weight = torch.randn(16, 8, requires_grad=True)

    def at_each_width() -> list[torch.Tensor]:
        found = []
        for quantizer.bits in WIDTHS:
            weight.grad = None
            quantizer(weight).square().sum().backward()
            found += [quantizer(weight).detach(), weight.grad]
        return found

    outside = at_each_width()
    assert calls == 2 * len(WIDTHS)
    with fixed_weights(quantizer):
        within = at_each_width()
        assert torch.equal(quantizer.kept[0].codes, stored(weight.detach()).codes)  # which nobody has altered
    assert calls == 2 * len(WIDTHS) + 1
    assert all(map(torch.equal, within, outside))
    with torch.no_grad():
        weight.mul_(-2)
    assert not torch.equal(quantizer(weight), within[-2])
