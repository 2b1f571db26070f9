"""Contenders timed in turn: every round runs each of them once, so that what disturbs one disturbs all."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np

Contender = Callable[[], object]
Clock = Callable[[Contender, int], float]
SAMPLE_SECONDS = 5e-3
"""A sample is as many calls as take this long, so that neither the clock's own cost shows nor how cold the contender
before has left the processor's caches: after compiled code calls of 40 us took 55 in samples of a tenth."""
WARM_UP_CALLS = 3
PERCENTILES = (20, 50, 80)


class Race:
    """Samples of seconds per call, of every contender; `round` adds one to each, whose turn to be first goes round.

    `clock(run, calls)` gives the seconds of one of so many calls: this machine's, or `gpu_seconds`.
    """

    def __init__(self, contenders: dict[str, Contender], clock: Clock | None = None) -> None:
        self.contenders, self.clock = contenders, clock or cpu_seconds
        self.samples: dict[str, list[float]] = {name: [] for name in contenders}
        for contender in contenders.values():
            for _ in range(WARM_UP_CALLS):
                contender()
        self.calls = {name: max(1, round(SAMPLE_SECONDS / self.clock(run, 1))) for name, run in contenders.items()}
        self._first = cycle(range(len(contenders)))

    def round(self) -> None:
        names, first = list(self.contenders), next(self._first)
        for name in names[first:] + names[:first]:
            self.samples[name].append(self.clock(self.contenders[name], self.calls[name]))

    def rounds_for(self, seconds: float, least: int = 7, most: int = 60) -> int:
        """How many rounds take about this long."""
        one = sum(self.clock(run, self.calls[name]) * self.calls[name] for name, run in self.contenders.items())
        return int(np.clip(seconds / one, least, most))

    def percentiles(self, name: str) -> list[float]:
        """20th, 50th and 80th percentile of a contender's samples, in milliseconds."""
        return [1e3 * float(value) for value in np.percentile(self.samples[name], PERCENTILES)]


def cpu_seconds(run: Contender, calls: int) -> float:
    """On this machine's clock, without collections of garbage."""
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    finally:
        gc.enable()


def gpu_seconds(run: Contender, calls: int) -> float:
    """On the GPU's clock: the median of ten replays of a graph of calls, each replay's mean.

    The graph has as many calls as take 10 ms when Python launches them, whatever number is asked for; neither Python
    nor launches have a part in the times. Nothing empties the GPU's cache between calls.
    """
    from triton.testing import do_bench_cudagraph

    return do_bench_cudagraph(run, rep=10, return_mode="median") / 1e3


def waited_for(contenders: dict[str, Contender]) -> dict[str, Contender]:
    """The same, each of which ends when the GPU has done its work."""
    from torch.cuda import synchronize

    return {name: lambda run=run: (run(), synchronize()) for name, run in contenders.items()}


def peak_mib(run: Contender) -> float | None:
    """By how much the memory of this process rises above its start at most, in MiB; None where Linux does not say.

    The kernel's own high-water mark of resident memory, set back just before: temporaries of any library count. Memory
    that the allocator keeps for reuse is given back first, where it can be (glibc).
    """
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
