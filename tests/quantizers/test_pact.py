"""PACT: hand-computed values and gradients."""

import pytest
import torch

from repro.quantizers import PACT


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(1, [0, 0, 0, 3, 3]), (2, [0, 0, 1, 2, 3]), (None, [0, 0, 1.2, 2.4, 7])],
)
def test_values_are_multiples_of_alpha_over_the_highest_code(bits: int | None, expected: list[float]) -> None:
    x = torch.tensor([-1.0, 0.0, 1.2, 2.4, 7.0])
    assert torch.equal(PACT(bits, alpha=3.0)(x), torch.tensor(expected, dtype=torch.float32))


def test_gradient_passes_inside_and_alpha_takes_that_of_the_clipped() -> None:
    pact = PACT(2, alpha=3.0)
    x = torch.tensor([-0.5, 0.0, 1.2, 3.0, 3.1, 9.0], requires_grad=True)
    pact(x).backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert x.grad.tolist() == [0, 2, 3, 4, 0, 0]
    assert pact.alpha.grad.item() == 11  # not through the step, which is detached


def test_with_a_sign_both_ends_are_clipped_and_zero_is_a_level() -> None:
    pact = PACT(3, alpha=3.0, signed=True)
    x = torch.tensor([-9.0, -1.4, 0.4, 1.6, 5.0, 6.0], requires_grad=True)
    y = pact(x)
    assert y.tolist() == [-3, -1, 0, 2, 3, 3]
    y.backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert x.grad.tolist() == [0, 2, 3, 4, 0, 0]
    assert pact.alpha.grad.item() == 5 + 6 - 1
    assert PACT(2, alpha=3.0, signed=True)(x).tolist() == [-3, 0, 0, 3, 3, 3]
    assert torch.equal(PACT(None, signed=True)(x), x)


def test_alpha_is_kept_at_or_above_its_floor() -> None:
    pact = PACT(2)
    with torch.no_grad():
        pact.alpha.fill_(-1.0)
    pact.keep_alpha_positive()
    assert pact.alpha.item() == pytest.approx(1e-3)


def test_switching_bits_keeps_the_state() -> None:
    pact = PACT(8, alpha=2.5)
    before = pact.state_dict()
    pact.bits = 2
    assert pact.state_dict().keys() == before.keys() == {"alpha"}
    assert pact(torch.tensor([9.0])).item() == 2.5
