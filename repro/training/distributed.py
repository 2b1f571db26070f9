"""Several processes that train one network together: each sees its part of a batch, and all take the same step.

Started by torchrun. Gradients, running statistics and the figures that decisions rest on (loss, entropy of a teacher)
are averaged over processes, explicitly and once a step: so a step may consist of any number of forward and backward
passes, and after it all processes hold the same network. Batch norms normalise each part by itself, as is usual.
A process on its own is its own average: then everything here returns what it was given, unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from repro.errors import UsageError

Part = tuple[int, int]
"""Number of a process and how many there are."""
WHOLE: Part = (0, 1)


def join(device: str) -> None:
    """Become one of the processes that torchrun started, to compute on `cpu` or `cuda`; returns when all have."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")


def leave() -> None:
    """The end of the work together."""
    dist.destroy_process_group()


def part() -> Part:
    """Which process this is, and of how many; (0, 1) for one on its own."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else WHOLE


def leads() -> bool:
    """Whether this is the process that writes files: the first one."""
    return part()[0] == 0


def device(name: str) -> str:
    """The device of this process: `cuda` stands for its own of the machine's."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if dist.is_initialized() and name == "cuda" else name


def check_batch(batch: int) -> None:
    """Raise `UsageError` for a batch that the processes cannot share evenly."""
    _, count = part()
    if batch % count:
        raise UsageError(f"batch={batch}: give a multiple of the {count} processes that share it")


def bounds(length: int, mine: Part) -> slice:
    """The part of a sequence of this length that falls to a process.

    >>> bounds(5, (0, 2)), bounds(5, (1, 2))
    (slice(0, 2, None), slice(2, 5, None))
    """
    number, count = mine
    return slice(length * number // count, length * (number + 1) // count)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its mean over processes. All must pass the same shapes."""
    _, count = part()
    if count == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, mean in zip(tensors, flat.div_(count).split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def mean(value: float, device: str | torch.device = "cpu") -> float:
    """The mean of a number over processes."""
    if part() == WHOLE:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=device)
    average([tensor])
    return tensor.item()


@torch.no_grad()
def synchronise(network: nn.Module) -> None:
    """Average the gradients, and the running statistics of batch norms, over processes."""
    if part() == WHOLE:
        return
    average([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    average_statistics(network)


@torch.no_grad()
def average_statistics(network: nn.Module) -> None:
    """Average the running statistics of batch norms over processes."""
    average([buffer for buffer in network.buffers() if buffer.is_floating_point()])


def all_gather(hits: np.ndarray) -> np.ndarray:
    """The parts of all processes, one after the other."""
    _, count = part()
    if count == 1:
        return hits
    parts: list[Any] = [None] * count
    dist.all_gather_object(parts, hits)
    return np.concatenate(parts)


def broadcast(message: Any = None) -> Any:
    """What the first process says to all: its `message`; the others wait for it and give none."""
    if part() == WHOLE:
        return message
    box = [message]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def barrier() -> None:
    """Go on when all processes have come here."""
    average([torch.zeros(1)])
