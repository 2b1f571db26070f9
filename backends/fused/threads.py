"""Running a compiled loop on torch's own threads.

The team is that of the OpenMP runtime which torch has loaded, entered through the function that code compiled by GCC
calls. So there is one pool of threads in the process, no more of them than `torch.set_num_threads` allows, and a
DataLoader's worker, which has one, gets one. Where a platform has no such runtime, and in a forked process, which
inherits none of the pool's threads, loops run on the calling thread; results are the same.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import torch

from backends.fused.loops import Loop

FEWEST_PER_THREAD = 2**15
"""Elements below which waking another thread costs more than it saves; what torch's own loops take."""

_forked = False


def run(loop: Loop, job: int, elements: int) -> None:
    """Run the loop on the job at this address, by as many threads as the elements are worth."""
    worth = elements // FEWEST_PER_THREAD
    count = min(worth, team_size()) if worth > 1 else 1
    if _enter_team is None or count == 1:
        loop.run(job)
    else:
        _enter_team(loop.address, job, count, 0)


def team_size() -> int:
    """Threads that a large job gets now."""
    return 1 if _forked or _enter_team is None else torch.get_num_threads()


def _entry() -> Callable[[int, int, int, int], None] | None:
    """`GOMP_parallel(function, argument, threads, flags)`; LLVM's and Intel's runtimes have it too."""
    try:
        function = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    function.restype = None
    return function


def _mark_forked() -> None:
    global _forked
    _forked = True


_enter_team = _entry()
os.register_at_fork(after_in_child=_mark_forked)
