"""Averages and parts: on its own a process keeps what it has; two processes share, and both hold the mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from repro.errors import UsageError
from repro.training import distributed
from repro.training.batches import Batches
from tests.training import two


def test_on_its_own_a_process_keeps_what_it_has() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    network(torch.randn(4, 3, 2, 2)).sum().backward()
    before = [network[0].weight.grad.clone(), network[1].running_mean.clone()]
    distributed.synchronise(network)
    assert torch.equal(network[0].weight.grad, before[0])
    assert torch.equal(network[1].running_mean, before[1])
    assert distributed.mean(0.1) == 0.1
    assert distributed.broadcast("word") == "word"
    assert distributed.leads()
    assert distributed.device("cuda") == "cuda"
    distributed.barrier()


def _averages(number: int) -> dict:
    network = nn.BatchNorm1d(2)
    network.weight.grad = torch.tensor([1.0, 2.0]) * (1 + number)
    network.running_var.fill_(number)
    distributed.synchronise(network)
    return {
        "gradient": network.weight.grad.tolist(),
        "without": network.bias.grad,
        "variance": network.running_var.tolist(),
        "mean": distributed.mean(float(number)),
        "all_gather": distributed.all_gather(np.array([number] * (1 + number))).tolist(),
        "broadcast": distributed.broadcast(("word", number) if number == 0 else None),
        "leads": distributed.leads(),
        "uneven": _refusal(distributed.check_batch, 5),
    }


def _refusal(function: Callable[[int], None], value: int) -> str:
    with pytest.raises(UsageError) as raised:
        function(value)
    return str(raised.value)


def test_two_processes_hold_the_mean(tmp_path: Path) -> None:
    answers = two.run(_averages, tmp_path / "rendezvous")
    assert [answer.pop("leads") for answer in answers] == [True, False]
    assert answers[0] == answers[1]
    assert answers[0] == {
        "gradient": [1.5, 3.0], "without": None, "variance": [0.5, 0.5], "mean": 0.5, "all_gather": [0, 1, 1],
        "broadcast": ("word", 0), "uneven": "batch=5: give a multiple of the 2 processes that share it",
    }  # fmt: skip


@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_images_in_memory_make_up_the_batch(count: int) -> None:
    """With the same augmentation as in one process."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (25, 3, 8, 8), np.uint8), np.arange(25)
    whole = Batches(images, labels, 6)
    parts = [Batches(images, labels, 6, part=(number, count)) for number in range(count)]
    for (x, y), *shares in zip(whole.training(0, 1), *(part.training(0, 1) for part in parts), strict=True):
        assert torch.equal(x, torch.cat([u for u, _ in shares]))
        assert torch.equal(y, torch.cat([v for _, v in shares]))
    seen = torch.cat([y for part in parts for _, y in part.plain(20)])
    assert seen.tolist() == list(range(20))
