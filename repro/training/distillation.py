"""Knowledge distillation for any training here: a student learns from a teacher's softened outputs and from labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.training.loop import Step

SoftLoss = Callable[[Tensor, Tensor, float], Tensor]


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the student's softened output under the teacher's, times T^2.

        p = softmax(teacher_logits / T),  q = softmax(logits / T)
        L = -T^2 mean_n sum_c p log q,    dL/dlogits = T (q - p) / N,    dL/dteacher_logits = 0

    Softening divides the gradient by about T^2; the factor undoes that, so that the weight of this loss against
    another keeps its meaning when T changes. For large T the gradient tends to the difference of the centred logits
    over N C: the student then matches logits.

    Shapes: (N, C) and (N, C), float; the loss is 0-d. Raises `ValueError` where the shapes differ or are not flat
    batches of logits. Source: Hinton, Vinyals, Dean 2015, section 2 and eq. 2-4.

    >>> student = torch.tensor([[0.0, 0.0]], requires_grad=True)
    >>> teacher = torch.tensor([[math.log(3.0), 0.0]])  # p = (3/4, 1/4)
    >>> soft_cross_entropy(student, teacher).backward()
    >>> student.grad  # q - p
    tensor([[-0.2500,  0.2500]])
    """
    _check(logits, teacher_logits)
    target = (teacher_logits.detach() / temperature).softmax(1)
    return temperature**2 * F.cross_entropy(logits / temperature, target)


def kl_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the student's softened output from the teacher's, times T^2.

        L = T^2 mean_n sum_c p log(p / q)

    It is `soft_cross_entropy` less T^2 times the teacher's entropy: the same gradient, and 0 where the student agrees.
    Shapes, errors and source as there.

    >>> student = torch.tensor([[2.0, 1.0]], requires_grad=True)
    >>> loss = kl_divergence(student, torch.tensor([[5.0, 4.0]]), temperature=3.0)  # the same up to a constant
    >>> loss.backward()
    >>> abs(round(loss.item(), 6)), student.grad.abs().max().item() < 1e-6
    (0.0, True)
    """
    _check(logits, teacher_logits)
    target = (teacher_logits.detach() / temperature).softmax(1)
    return temperature**2 * F.kl_div((logits / temperature).log_softmax(1), target, reduction="batchmean")


SOFT_LOSSES: Mapping[str, SoftLoss] = MappingProxyType({"kl": kl_divergence, "cross_entropy": soft_cross_entropy})


@dataclass(frozen=True)
class Distillation:
    """The loss of a student: `hard_weight` cross-entropy with the labels + `soft_weight` soft loss to the teacher.

    With weights that add up to 1 the teacher changes the direction of a step and not the size of the loss.

    Attributes:
        hard_weight, soft_weight: not negative, not both zero.
        temperature: T > 0 of the soft loss alone.
        form: `kl` or `cross_entropy`; the gradient is the same.

    Raises `ValueError`, naming the setting, for a value outside these.

    >>> loss = Distillation(hard_weight=0.5, soft_weight=0.5, temperature=2.0)
    >>> student = torch.tensor([[0.0, 0.0]], requires_grad=True)
    >>> loss(student, torch.tensor([[2 * math.log(3.0), 0.0]]), torch.tensor([0])).backward()
    >>> student.grad  # 1/2 (1/2 - 1) + 1/2 2 (1/2 - 3/4), and its opposite
    tensor([[-0.5000,  0.5000]])
    """

    hard_weight: float = 0.5
    soft_weight: float = 0.5
    temperature: float = 4.0
    form: str = "kl"

    def __post_init__(self) -> None:
        for name in ("hard_weight", "soft_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: give a number that is not negative")
        if not self.hard_weight + self.soft_weight > 0:
            raise ValueError("hard_weight=0 and soft_weight=0: nothing is learned; give one of them a positive weight")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature}: give a positive number")
        if self.form not in SOFT_LOSSES:
            raise ValueError(f"form={self.form}: give one of {', '.join(SOFT_LOSSES)}")

    def __call__(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, 0-d: logits (N, C) twice, labels integers (N,)."""
        soft = SOFT_LOSSES[self.form](logits, teacher_logits, self.temperature)
        return self.hard_weight * F.cross_entropy(logits, labels) + self.soft_weight * soft


def training_step(network: nn.Module, teacher: nn.Module | None = None, loss: Distillation | None = None) -> Step:
    """The step of a `Training`: forward and backward of a batch with cross-entropy or, with a teacher, distillation.

    The teacher sees the same augmented images, in evaluation mode (set here) and without gradients; neither its
    parameters nor its running statistics change. `loss` is by default `Distillation()`.

    >>> network, teacher = nn.Linear(2, 3), nn.Linear(2, 3)
    >>> value = training_step(network, teacher)(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]), 0)
    >>> network.weight.grad is not None, teacher.weight.grad is None
    (True, True)
    """
    distillation = loss or Distillation()
    if teacher is not None:
        teacher.eval()

    def step(images: Tensor, labels: Tensor, number: int) -> float:
        logits = network(images)
        if teacher is None:
            value = F.cross_entropy(logits, labels)
        else:
            with torch.no_grad():
                teacher_logits = teacher(images)
            value = distillation(logits, teacher_logits, labels)
        value.backward()
        return value.item()

    return step


def _check(logits: Tensor, teacher_logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape != teacher_logits.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ValueError(f"logits of student and teacher: expected the same shape (N, C), got {shapes}")
