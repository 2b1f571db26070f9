"""Distillation: hand-computed losses and gradients, the role of T^2, and a teacher that is only looked at."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from repro.training.distillation import SOFT_LOSSES, Distillation, kl_divergence, soft_cross_entropy, training_step

LOG3 = math.log(3.0)
BOTH = pytest.mark.parametrize("loss", SOFT_LOSSES.values(), ids=SOFT_LOSSES)
Loss = Callable[[Tensor, Tensor, float], Tensor]


def logits(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def drawn(seed: int, n: int = 5, classes: int = 7, scale: float = 3.0) -> Tensor:
    values = scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def gradient(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at)[0]


class TestByHand:
    """q = (1/4, 3/4) and p = (3/4, 1/4)."""

    def test_values(self) -> None:
        student, teacher = logits((0.0, LOG3)), logits((LOG3, 0.0))
        entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
        assert soft_cross_entropy(student, teacher).item() == pytest.approx(0.75 * math.log(4) + 0.25 * math.log(4 / 3))
        assert kl_divergence(student, teacher).item() == pytest.approx(0.5 * LOG3)
        assert (soft_cross_entropy(student, teacher) - kl_divergence(student, teacher)).item() == pytest.approx(entropy)

    @BOTH
    def test_temperature_softens_both_and_multiplies_by_its_square(self, loss: Loss) -> None:
        """Logits twice as large at T = 2 are the same distributions: four times the loss, twice the gradient."""
        student, teacher = logits((0.0, LOG3)), logits((LOG3, 0.0))
        twice, teacher_twice = logits((0.0, 2 * LOG3)), logits((2 * LOG3, 0.0))
        soft = loss(twice, teacher_twice, 2.0)
        assert soft.item() == pytest.approx(4 * loss(student, teacher, 1.0).item())
        torch.testing.assert_close(gradient(soft, twice), torch.tensor([[-1.0, 1.0]], dtype=torch.float64))

    @BOTH
    def test_mean_over_the_batch(self, loss: Loss) -> None:
        student, teacher = logits((0.0, LOG3), (5.0, 5.0)), logits((LOG3, 0.0), (1.0, 1.0))
        expected = torch.tensor([[-0.25, 0.25], [0.0, 0.0]], dtype=torch.float64)
        torch.testing.assert_close(gradient(loss(student, teacher, 1.0), student), expected)

    def test_hard_and_soft_with_their_weights(self) -> None:
        student, teacher, labels = logits((0.0, LOG3)), logits((LOG3, 0.0)), torch.tensor([0])
        found = Distillation(hard_weight=2.0, soft_weight=3.0, temperature=1.0)(student, teacher, labels)
        assert found.item() == pytest.approx(2 * math.log(4) + 3 * 0.5 * LOG3)
        expected = 2 * torch.tensor([[-0.75, 0.75]]) + 3 * torch.tensor([[-0.5, 0.5]])
        torch.testing.assert_close(gradient(found, student), expected.double())


class TestGradient:
    @BOTH
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_is_t_times_the_difference_of_the_distributions(self, loss: Loss, temperature: float) -> None:
        student, teacher = drawn(0), drawn(1)
        q, p = ((z / temperature).softmax(1) for z in (student, teacher))
        found = gradient(loss(student, teacher, temperature), student)
        torch.testing.assert_close(found, (temperature * (q - p) / 5).detach())
        assert torch.autograd.gradcheck(lambda z: loss(z, teacher.detach(), temperature), student)

    @BOTH
    def test_tends_to_the_difference_of_centred_logits(self, loss: Loss) -> None:
        """Without T^2 it would vanish as 1/T^2."""
        student, teacher = drawn(0), drawn(1)
        centred = [z - z.mean(1, keepdim=True) for z in (student, teacher)]
        found = gradient(loss(student, teacher, 1e4), student)
        torch.testing.assert_close(found, ((centred[0] - centred[1]) / (5 * 7)).detach(), rtol=0, atol=1e-4)

    @BOTH
    def test_never_reaches_the_teacher(self, loss: Loss) -> None:
        student, teacher = drawn(0), drawn(1)
        loss(student, teacher, 2.0).backward()
        assert student.grad is not None
        assert teacher.grad is None

    def test_with_no_soft_weight_it_is_cross_entropy(self) -> None:
        student, labels = drawn(0), torch.arange(5)
        found = gradient(Distillation(1.0, 0.0)(student, drawn(1), labels), student)
        torch.testing.assert_close(found, gradient(F.cross_entropy(student, labels), student))


class TestProperties:
    @settings(max_examples=30)
    @given(st.integers(0, 1000), st.floats(0.25, 20))
    def test_divergence_is_not_negative_and_zero_at_the_teacher_only(self, seed: int, temperature: float) -> None:
        student, teacher = drawn(seed), drawn(seed + 1)
        assert kl_divergence(student, teacher, temperature) > 0
        assert kl_divergence(teacher + 3.0, teacher, temperature).item() == pytest.approx(0, abs=1e-10)

    @BOTH
    def test_a_certain_teacher_is_a_hard_label(self, loss: Loss) -> None:
        student, labels = drawn(0, classes=3), torch.tensor([0, 2, 1, 1, 0])
        certain = torch.where(F.one_hot(labels, 3).bool(), 0.0, -math.inf).double()
        torch.testing.assert_close(loss(student, certain, 1.0), F.cross_entropy(student, labels))

    @BOTH
    def test_one_row_is_the_mean_of_rows(self, loss: Loss) -> None:
        student, teacher = drawn(0), drawn(1)
        rows = [loss(student[i : i + 1], teacher[i : i + 1], 3.0) for i in range(5)]
        torch.testing.assert_close(loss(student, teacher, 3.0), torch.stack(rows).mean())


class TestStep:
    IMAGES, LABELS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3

    def network(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))

    def test_without_a_teacher_it_is_cross_entropy(self) -> None:
        one, other = self.network(0), self.network(0)
        loss = F.cross_entropy(other(self.IMAGES), self.LABELS)
        loss.backward()
        assert training_step(one)(self.IMAGES, self.LABELS, 0) == loss.item()
        for mine, its in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine.grad, its.grad)

    def test_the_teacher_is_only_looked_at(self) -> None:
        network, teacher = self.network(0), self.network(1)
        before = {key: value.clone() for key, value in teacher.state_dict().items()}
        step = training_step(network, teacher, Distillation(0.3, 0.7, 2.0))
        found = step(self.IMAGES, self.LABELS, 0)
        assert not teacher.training
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
        student = self.network(0)(self.IMAGES)
        expected = Distillation(0.3, 0.7, 2.0)(student, teacher(self.IMAGES), self.LABELS)
        assert found == pytest.approx(expected.item())

    def test_a_student_taught_alone_comes_to_agree(self) -> None:
        network, teacher = self.network(0), self.network(1)
        step = training_step(network, teacher, Distillation(0.0, 1.0, 2.0))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            losses.append(step(self.IMAGES, self.LABELS, 0))
            optimizer.step()
        assert losses[-1] < 0.1 * losses[0]


class TestBadInput:
    @BOTH
    @pytest.mark.parametrize("shape", [(2, 4), (3, 3), (1, 3), (3,)])
    def test_shapes_that_differ(self, loss: Loss, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected the same shape \(N, C\), got \(2, 3\) and"):
            loss(torch.zeros(2, 3), torch.zeros(shape), 1.0)

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"hard_weight": -0.1}, "hard_weight=-0.1"),
            ({"soft_weight": math.nan}, "soft_weight=nan"),
            ({"hard_weight": 0.0, "soft_weight": 0.0}, "give one of them"),
            ({"temperature": 0.0}, "temperature=0.0"),
            ({"temperature": math.inf}, "temperature=inf"),
            ({"form": "l2"}, "form=l2: give one of kl, cross_entropy"),
        ],
    )
    def test_settings_that_cannot_be(self, values: dict, named: str) -> None:
        with pytest.raises(ValueError, match=named):
            Distillation(**values)
