"""Processes that torchrun started: the first one leads, and all take part in every unit that it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import backends
from repro import hardware, targets
from repro.targets import Context, Outcome, Unit, unheard


def member() -> bool:
    """Whether this is one of the processes that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined(device: str, backend: str | None) -> Iterator[bool]:
    """Gives whether this process leads, as one on its own does: plans, writes and prints.

    The others that torchrun started take part in every unit that the first one runs, and get False when it is done. An
    error in any of them ends it, and torchrun then ends the others.
    """
    if not member():
        yield True
        return
    os.environ.update(hardware.ONE_THREAD)
    if backend:
        os.environ[backends.ENVIRONMENT_VARIABLE] = backend
    from repro.training import distributed

    distributed.join(device)
    if distributed.leads():
        yield True
        distributed.broadcast(None)
    else:
        while call := _heard():
            _take_part(*call)
        yield False
    distributed.leave()


def run(unit: Unit, context: Context) -> Outcome:
    """Run a unit with all processes; called by the one that leads, which alone reports its progress."""
    from repro.training import distributed

    distributed.broadcast((unit, replace(context, progress=unheard)))
    return _take_part(unit, context)


def _heard() -> tuple[Unit, Context] | None:
    """What to take part in next; nothing where the first process is done, or has ended and said why."""
    from repro.training import distributed

    try:
        return distributed.broadcast()
    except RuntimeError:
        return None


def _take_part(unit: Unit, context: Context) -> Outcome:
    from repro.training import distributed

    outcome = targets.get(unit.target).run(unit, replace(context, device=distributed.device(context.device)))
    distributed.barrier()
    return outcome
