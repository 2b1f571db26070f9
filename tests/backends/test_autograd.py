"""`fake_quantize`: gradients to all four inputs, the chain rule behind them, what is saved, which backend ran."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import backends
from backends import BackendUnavailableError, Gradients, Scaler, UnknownNameError, contract, eager, reference
from backends.autograd import fake_quantize, scale_gradient
from backends.contract import NOISE_CONTROLS, SCALERS
from tests.backends import tolerances

STE = Scaler("ste")
FORMS = ("printed", "normalised")


def data(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """x, spread over -1 .. 1 and beyond, and a gradient of y."""
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(*shape, generator=generator, dtype=dtype) for _ in range(2))
    return x.requires_grad_(), g


class TestWhichPathRan:
    def test_forward_and_backward_are_those_of_the_backend_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        for module in (eager, reference):
            for name in ("codes", "forward", "backward", "multiplier"):
                monkeypatch.setattr(module, name, recorded(getattr(module, name), module, calls))
        x, g = data(5)
        y = fake_quantize(x, 0.5, -1.0, 1.0, scaler=STE, backend="eager")
        assert calls == [("backends.eager", "forward")]
        y.backward(g)
        assert calls == [("backends.eager", "forward"), ("backends.eager", "backward")]

    def test_the_backend_of_the_forward_serves_the_backward(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, g = data(5)
        y = fake_quantize(x, 0.5, -1.0, 1.0, scaler=STE, backend="eager")
        monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
        y.backward(g)

    def test_the_reference_is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, _ = data(5)
        with pytest.raises(BackendUnavailableError, match=r"'reference' computes on NumPy arrays: ask for .*eager"):
            fake_quantize(x, 0.5, -1.0, 1.0, scaler=STE, backend="reference")
        monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
        with pytest.raises(BackendUnavailableError, match="'reference' computes on NumPy arrays"):
            fake_quantize(x, 0.5, -1.0, 1.0, scaler=STE)

    def test_an_unknown_backend_raises(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'eager'"):
            fake_quantize(data(5)[0], 0.5, -1.0, 1.0, scaler=STE, backend="eagr")


def recorded(function: Callable, module: Any, calls: list) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        calls.append((module.__name__, function.__name__))
        return function(*args, **kwargs)

    return run


class TestGradients:
    @pytest.mark.parametrize("axis", [None, 1])
    def test_all_four_are_those_of_the_backend(self, axis: int | None) -> None:
        x, g = data(4, 3, 5)
        scale = torch.tensor(1.0) if axis is None else torch.tensor([0.5, 1.0, 2.0])
        parameters = [torch.nn.Parameter(scale * value) for value in (0.1, -0.4, 0.3)]
        fake_quantize(x, *parameters, scaler=Scaler("ewgs"), axis=axis, backend="eager").backward(g)
        expected = eager.backward(g, x, *parameters, scaler=Scaler("ewgs"), axis=axis)
        for tensor, gradient in zip((x, *parameters), expected, strict=True):
            assert torch.equal(tensor.grad, gradient)

    def test_numbers_tensors_and_channels_may_be_mixed(self) -> None:
        x, g = data(4, 3)
        upper = torch.tensor([0.5, 1.0, 1.5], requires_grad=True)
        fake_quantize(x, 0.5, torch.tensor(-1.0), upper, scaler=STE, axis=-1).backward(g)
        assert torch.allclose(upper.grad, torch.where(x > upper, g, 0).sum(0).detach())

    def test_a_gradient_has_the_dtype_of_what_it_belongs_to(self) -> None:
        x = torch.tensor([0.3, 9.0], dtype=torch.bfloat16, requires_grad=True)
        step = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
        upper = torch.tensor(1.5, dtype=torch.float16, requires_grad=True)
        y = fake_quantize(x[None], step, -1.0, upper, scaler=STE, axis=0)
        y.sum().backward()
        assert (y.dtype, x.grad.dtype, step.grad.dtype, upper.grad.dtype) == (
            torch.bfloat16,
            torch.bfloat16,
            torch.float64,
            torch.float16,
        )

    def test_only_what_needs_a_gradient_gets_one(self) -> None:
        x, g = data(5)
        upper = torch.tensor(1.0, requires_grad=True)
        fake_quantize(x.detach(), torch.tensor(0.5), -1.0, upper, scaler=STE).backward(g)
        assert upper.grad is not None
        assert x.grad is None
        assert not fake_quantize(x.detach(), 0.5, -1.0, 1.0, scaler=STE).requires_grad

    def test_there_is_no_second_derivative(self) -> None:
        x, g = data(5)
        y = fake_quantize(x, 0.5, -1.0, 1.0, scaler=STE)
        (dx,) = torch.autograd.grad(y, x, g.requires_grad_(), create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            dx.sum().backward()

    @pytest.mark.parametrize("name", NOISE_CONTROLS)
    def test_S4_noise_reaches_the_backward(self, name: str) -> None:
        x, g = data(5)
        noise = torch.tensor([0.5, -0.5, 0.0, 0.25, 1.0])
        fake_quantize(x, 0.5, -9.0, 9.0, scaler=Scaler(name, delta=0.5), noise=noise).backward(g)
        assert torch.equal(x.grad, g * (1 + 0.5 * noise))

    def test_S4_noise_that_is_missing_or_unasked_raises_in_the_forward(self) -> None:
        x, g = data(5)
        with pytest.raises(ValueError, match="needs noise"):
            fake_quantize(x, 0.5, -1.0, 1.0, scaler=Scaler("uniform_noise"))
        with pytest.raises(ValueError, match="takes no noise"):
            fake_quantize(x, 0.5, -1.0, 1.0, scaler=STE, noise=g)

    def test_Q6_bad_parameters_raise(self) -> None:
        with pytest.raises(ValueError, match=r"upper=-1\.0"):
            fake_quantize(data(5)[0], 0.5, -1.0, torch.tensor(-1.0), scaler=STE)


class TestSaved:
    @pytest.mark.parametrize("axis", [None, 0])
    def test_G4_x_alone_is_kept_beside_the_parameters(self, axis: int | None) -> None:
        x, _ = data(8, 100)
        parameters = [torch.nn.Parameter(torch.full((8,) if axis == 0 else (), value)) for value in (0.1, -0.4, 0.3)]
        saved: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = fake_quantize(x, *parameters, scaler=Scaler("tanh"), axis=axis)
        kept = (x, *parameters) if axis == 0 else (x,)  # of one grid, its three numbers
        assert [tensor.data_ptr() for tensor in saved] == [tensor.data_ptr() for tensor in kept]
        held = [value for value in vars(y.grad_fn).values() if isinstance(value, Tensor)]
        assert held == []

    def test_the_backward_is_of_the_grid_that_the_forward_had(self) -> None:
        x, step = torch.tensor([0.3], requires_grad=True), torch.tensor(0.5, requires_grad=True)
        y = fake_quantize(x, step, -1.0, 1.0, scaler=STE)
        with torch.no_grad():
            step.fill_(0.25)
        y.backward(torch.ones(1))
        assert step.grad == 1 - torch.tensor(0.3) / 0.5

    def test_G4_a_change_of_x_before_the_backward_is_noticed(self) -> None:
        x = data(5)[0].detach()
        step = torch.tensor(0.5, requires_grad=True)
        y = fake_quantize(x, step, -1.0, 1.0, scaler=STE)
        x.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize("scaler", [Scaler(name, delta=0.3, form=form) for name in SCALERS for form in FORMS])
class TestChainRule:
    """G2: the formulas are the chain rule through clip -> divide -> scaled round -> multiply.

    The scaled round is stated as what it is: rint(v) as a value, with the slope s, a constant given g and e.
    """

    STEP, LOWER, UPPER = 0.3, -0.7, 1.0

    def test_G2_autograd_through_the_four_operations(self, scaler: Scaler) -> None:
        x, g = data(1000, dtype=torch.float64)
        ours, theirs = (
            [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in self.parameters] for _ in "12"
        )
        fake_quantize(x, *ours, scaler=scaler).backward(g)
        other_x = x.detach().requires_grad_()
        step, lower, upper = theirs
        clipped = torch.where(other_x < lower, lower, torch.where(other_x > upper, upper, other_x))
        v = clipped / step
        error = (v - v.round()).detach()
        s = torch.from_numpy(reference.multiplier(scaler, g.numpy(), error.numpy()))
        scaled_round = v.round().detach() + s * (v - v.detach())
        (scaled_round * step).backward(g)
        for one, other in zip((x, *ours), (other_x, *theirs), strict=True):
            assert (one.grad - other.grad).abs().max() <= tolerances.CHAIN_RULE_64 * float((g * v).detach().abs().sum())

    def test_G2_difference_quotients(self, scaler: Scaler) -> None:
        x, g = (tensor.detach().numpy() for tensor in data(1000, dtype=torch.float64))
        centre = np.array(self.parameters)
        v = np.clip(x, *centre[1:]) / centre[0]
        rounded, s = np.rint(v), reference.multiplier(scaler, g, v - np.rint(v))

        def loss(parameters: np.ndarray) -> float:
            step, lower, upper = parameters
            return float(g @ ((rounded + s * (np.clip(x, lower, upper) / step - v)) * step))

        found = reference.backward(g, x, *centre, scaler=scaler)
        for index, gradient in enumerate(found[1:]):
            h = np.zeros(3)
            h[index] = 1e-6
            quotient = (loss(centre + h) - loss(centre - h)) / 2e-6
            assert abs(float(gradient) - quotient) <= tolerances.DIFFERENCE_QUOTIENT * np.abs(g).sum()

    @property
    def parameters(self) -> tuple[float, float, float]:
        return self.STEP, self.LOWER, self.UPPER


class TestSpecialCases:
    """G2: LSQ and PACT from the same four gradients, by autograd's own chain rule and by the contract's functions."""

    @pytest.mark.parametrize(("q_min", "q_max"), [(-2, 1), (-8, 7), (0, 15)])
    def test_G2_lsq_is_its_papers_formula(self, q_min: int, q_max: int) -> None:
        """Per element: rint(v) - v inside, q_min below and q_max above the range, times g."""
        x, g = data(500, dtype=torch.float64)
        step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        fake_quantize(x, step, q_min * step, q_max * step, scaler=STE).backward(g)
        v = (x / step).detach()
        inside = (q_min * step <= x) & (x <= q_max * step)
        formula = (g * torch.where(inside, v.round() - v, v.clamp(q_min, q_max))).sum()
        bound = tolerances.CHAIN_RULE_64 * float((g * v).detach().abs().sum())
        assert abs(step.grad - formula) <= bound
        assert abs(self.lsq(g, x, step, q_min, q_max) - formula) <= bound

    @staticmethod
    def lsq(g: Tensor, x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
        gradients = eager.backward(g, x, step, q_min * step, q_max * step, scaler=STE)
        return contract.lsq_step_gradient(gradients, q_min, q_max)

    def test_G2_pact_holds_the_step_so_alpha_gets_the_clipped_gradients(self) -> None:
        x, g = data(500, dtype=torch.float64)
        alpha = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        fake_quantize(x, alpha.detach() / 3, 0.0, alpha, scaler=STE).backward(g)
        assert abs(alpha.grad - g[x > alpha].sum()) <= tolerances.CHAIN_RULE_64 * float(g.abs().sum())
        assert contract.pact_alpha_gradient(self.pact(g, x)) == alpha.grad

    def test_G2_pact_through_the_step_too_is_another_gradient(self) -> None:
        x, g = data(500, dtype=torch.float64)
        alpha = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        fake_quantize(x, alpha / 3, 0.0, alpha, scaler=STE).backward(g)
        full = contract.pact_alpha_gradient_full_chain(self.pact(g, x), bits=2)
        assert abs(alpha.grad - full) <= tolerances.CHAIN_RULE_64 * float(g.abs().sum())
        assert abs(full - contract.pact_alpha_gradient(self.pact(g, x))) > 0.1

    @staticmethod
    def pact(g: Tensor, x: Tensor) -> Gradients:
        return eager.backward(g, x, 0.8 / 3, 0.0, 0.8, scaler=STE)

    def test_G5_the_factor_is_applied_where_asked_and_nowhere_else(self) -> None:
        x, g = data(100)
        factor = contract.lsq_gradient_factor(count=x.numel(), q_max=3)
        plain, scaled = (torch.tensor(0.3, requires_grad=True) for _ in range(2))
        inside = scale_gradient(scaled, factor)
        assert torch.equal(inside, scaled)
        y = fake_quantize(x, plain, -1.2, 0.9, scaler=STE)
        z = fake_quantize(x, inside, -1.2, 0.9, scaler=STE)
        assert torch.equal(y, z)
        (y * g).sum().backward()
        (z * g).sum().backward()
        assert torch.equal(scaled.grad, plain.grad * factor)
