"""CoQuant's block swapping: blocks of the student's forward pass give way to the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch import nn

from repro.networks.quantize import set_bits


def student_probabilities(
    progress: float, blocks: int, start: float, by_depth: bool = True, end: float = 1.0
) -> list[float]:
    """Probability p_l that block l is the student's own: goes linearly from `start` to `end` over training.

        p(t) = start + (end - start) t
        p_l  = 1 - (1 - p(t)) (L - l) / L    by depth: early blocks use the teacher more;    else p(t)

    Args:
        progress: t, the part of training that is done, 0..1.
        blocks: L; l counts from 0 at the input.
        start, end: p at the beginning and at the end.

    Source: paper B; the numbers and the depth rule are ours.

    >>> [round(p, 3) for p in student_probabilities(0.0, 4, start=0.2)]
    [0.2, 0.4, 0.6, 0.8]
    >>> student_probabilities(1.0, 2, start=0.2), student_probabilities(0.5, 2, start=0.5, by_depth=False)
    ([1.0, 1.0], [0.75, 0.75])
    """
    p = start + (end - start) * progress
    return [1 - (1 - p) * (blocks - index) / blocks if by_depth else p for index in range(blocks)]


def draw(probabilities: Sequence[float], generator: np.random.Generator) -> list[bool]:
    """Which blocks are swapped for the teacher's: block l with probability 1 - p_l, one draw per block and batch."""
    return [bool(u >= p) for u, p in zip(generator.random(len(probabilities)), probabilities, strict=True)]


@contextmanager
def swapped(
    blocks: Sequence[Sequence[nn.Module]],
    which: Sequence[bool],
    student: int,
    teacher: int,
    *,
    trains_teacher: bool = False,
) -> Iterator[None]:
    """Within, the blocks of `which` run as the teacher's: its weights, clip levels and batch norms.

    Each block is given as its modules (a network's `swappable()`). Their running statistics are left alone, and their
    parameters get no gradient unless `trains_teacher`; the gradient passes through them to the blocks before. All
    blocks are the student's again afterwards.
    """
    chosen = [module for block, swap in zip(blocks, which, strict=True) if swap for module in block]
    norms = [(m, m.momentum) for module in chosen for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    parameters = [p for module in chosen for p in module.parameters() if p.requires_grad]
    for module in chosen:
        set_bits(module, teacher)
    for norm, _ in norms:
        norm.momentum = 0.0
    if not trains_teacher:
        for parameter in parameters:
            parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in chosen:
            set_bits(module, student)
        for norm, momentum in norms:
            norm.momentum = momentum
        for parameter in parameters:
            parameter.requires_grad_(True)
