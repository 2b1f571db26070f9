"""Two processes that train together, as torchrun's would, but started by a test."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from torch import distributed as dist

from repro.training import distributed


def forkserver() -> ForkServerContext:
    """Makes processes for which torch is imported once; their environment is that of the first one's start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "timm"])
    return context


def run(work: Callable[..., Any], rendezvous: Path, *arguments: Any) -> list[Any]:
    """What `work(number, *arguments)` gives in each of two processes that have joined; fails where one does."""
    context = forkserver()
    ends = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(target=_work, args=(theirs, work, number, rendezvous, arguments), daemon=True)
        for number, (_, theirs) in enumerate(ends)
    ]
    for process in processes:
        process.start()
    for _, theirs in ends:
        theirs.close()
    try:
        answers = [ours.recv() for ours, _ in ends]
        for ours, _ in ends:
            ours.close()
        for process in processes:
            process.join()
        return answers
    finally:
        for process in processes:
            process.terminate()


def _work(answers: Any, work: Callable[..., Any], number: int, rendezvous: Path, arguments: tuple) -> None:
    import torch

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=number, world_size=2)
    answers.send(work(number, *arguments))
    distributed.barrier()
    distributed.leave()
    with suppress(EOFError):
        answers.recv()  # until the test has taken the tensors of the answer, whose memory this process shares
