"""Runs units side by side, one pinned process each: what is recorded is skipped, what was killed goes on.

Started by torchrun, its processes run one unit after the other together (`repro.crew`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import backends
from repro import crew, hardware, targets, workspace
from repro.errors import INTERNAL, ReproError, explain
from repro.evidence.canonical import short_digest
from repro.evidence.records import Record, Store, pack, settings_hash
from repro.progress import Lines, Reporter, duration, label
from repro.targets import Context, Outcome, Target, Unit
from repro.workspace import Note

SECONDS_TO_END = 5.0


@dataclass(frozen=True)
class Setup:
    """What all units of one command share."""

    out: Path
    device: str = "cpu"
    backend: str | None = None
    data_root: Path | None = None
    workers: int = 1
    force: bool = False
    provenance: Mapping[str, Any] = field(default_factory=hardware.provenance)
    preregistration: str = ""

    def folder(self, unit: Unit) -> Path:
        """The unit's own folder, where its checkpoints and its artefact lie."""
        return self.out / "work" / key(unit)

    @property
    def store(self) -> Store:
        """This machine's records."""
        return Store(self.out / "records")


def key(unit: Unit) -> str:
    """Key of the unit's record: `target/scale/unit.seed.hash`."""
    return f"{unit.target}/{unit.scale}/{unit.name}.{unit.seed}.{settings_hash(unit.settings)}"


# --- what there is to do -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A unit to run, the folders of the units it starts from, its record where it runs although it has one, and the
    forced command, if any, that it runs for."""

    unit: Unit
    inputs: Mapping[str, Path]
    recorded: Record | None
    asked: str = ""


@dataclass(frozen=True)
class Plan:
    """What there is to do, in order, and the units that need no run."""

    todo: tuple[Job, ...]
    skipped: tuple[Unit, ...]


def plan(
    target: Target, units: Sequence[Unit], setup: Setup, stores: Sequence[Store] = (), shard: tuple[int, int] = (1, 1)
) -> Plan:
    """Divide `units` (required ones first) into those to run and those recorded here or in any of `stores`.

    A recorded unit is run again where one to run needs its artefact and the file is not on this machine, and where a
    forced command asks for it or did and was broken off: of one that is given again, for the same units by the same
    code, what has not ended is left. Shard `(i, n)` keeps every n-th seed, so that a unit and what it requires stay
    together.
    """
    index, count = shard
    mine = {(unit.name, unit.seed): unit for unit in units if unit.seed % count == index - 1}
    notes = {identity: workspace.read(setup.folder(unit)) for identity, unit in mine.items()}
    asked = {identity: note.unfinished for identity, note in notes.items() if note and note.unfinished}
    if setup.force:
        command = short_digest([setup.provenance["commit"], sorted(key(unit) for unit in mine.values())])
        left = [identity for identity, before in asked.items() if before == command]
        asked = dict.fromkeys(left or mine, command)
    recorded = _recorded(target.name, [setup.store, *stores])
    todo: dict[tuple[str, int], Job] = {}
    needed: set[tuple[str, int]] = set()
    for identity, unit in reversed(mine.items()):
        record = recorded.get((key(unit), unit.numerics))
        absent = identity in needed and not _has_artefact(setup.folder(unit), notes[identity], unit, target)
        if identity in asked or record is None or absent:
            inputs = {name: setup.folder(mine[name, unit.seed]) for name in unit.requires}
            todo[identity] = Job(unit, inputs, record, asked.get(identity, ""))
            needed |= _required(unit)
    skipped = tuple(unit for identity, unit in mine.items() if identity not in todo)
    return Plan(tuple(reversed(todo.values())), skipped)


def _required(unit: Unit) -> set[tuple[str, int]]:
    return {(name, unit.seed) for name in unit.requires}


def _recorded(target: str, stores: Sequence[Store]) -> dict[tuple[str, int], Record]:
    """Records by key and numerics; where several stores have one, the first store's."""
    return {(record.key, record.numerics): record for store in reversed(stores) for record in store.read(target)[0]}


def _has_artefact(folder: Path, note: Note | None, unit: Unit, target: Target) -> bool:
    """Whether the folder holds the network that is recorded, of the present numerics."""
    finished = note is not None and note.state == "done" and note.numerics == unit.numerics
    return finished and (folder / target.artefact).is_file()


# --- the parent ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advanced:
    """A worker's word that its unit is `done` of `total` steps far."""

    done: int
    total: int
    note: str


@dataclass(frozen=True)
class Ended:
    """A worker's last word on a unit; `code` is the exit code that this kind of failure asks for."""

    how: Literal["done", "recorded", "busy", "failed"]
    line: str
    code: int = 0
    trace: str = ""


@dataclass(frozen=True)
class Report:
    """What became of the units of one command; `left` were kept back by a limit or lack what they require."""

    skipped: tuple[Unit, ...] = ()
    ended: tuple[tuple[Unit, Ended], ...] = ()
    left: tuple[Unit, ...] = ()

    def units(self, how: str) -> list[Unit]:
        """Those that ended so."""
        return [unit for unit, end in self.ended if end.how == how]

    @property
    def exit_code(self) -> int:
        """0 when nothing failed, else the code of the worst failure."""
        return max((end.code for _, end in self.ended), default=0)

    def __str__(self) -> str:
        counts = {how: len(self.units(how)) for how in ("done", "recorded", "failed", "busy")}
        counts["recorded"] += len(self.skipped)
        counts["left"] = len(self.left)
        return ", ".join(f"{n} {how}" for how, n in counts.items() if n) or "nothing to run"


def execute(planned: Plan, setup: Setup, *, limit: int | None = None, reporter: Reporter | None = None) -> Report:
    """Run the jobs of a plan, at most `limit` of them, on `setup.workers` processes.

    A unit that fails does not stop the others, but under torchrun, where it ends all processes. An interrupt ends the
    processes; a unit that was running goes on from its last checkpoint when the same command is given again.
    """
    if not planned.todo:
        return Report(planned.skipped)
    for job in reversed(planned.todo):  # a start after what starts from it: broken off here, none is left out
        if job.asked:
            workspace.ask(setup.folder(job.unit), job.unit.numerics, job.asked)
    if crew.member():
        return _execute_together(planned, setup, limit, reporter or Lines())
    waiting = list(planned.todo[:limit])
    unfinished = {(job.unit.name, job.unit.seed) for job in waiting}
    ended: list[tuple[Unit, Ended]] = []
    running: dict[Connection, tuple[_Worker, Job]] = {}
    reporter = reporter or Lines()
    reporter.begin(len(waiting))
    with closing(reporter), _pool(min(setup.workers, len(waiting)), setup) as idle:
        while True:
            for job in [job for job in waiting if not unfinished & _required(job.unit)][: len(idle)]:
                waiting.remove(job)
                reporter.started(job.unit)
                worker = idle.pop()
                running[worker.give(job)] = worker, job
            if not running:
                break
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                worker, job = running[connection]
                message = worker.hear()
                if isinstance(message, Advanced):
                    reporter.advanced(job.unit, message.done, message.total, message.note)
                    continue
                del running[connection]
                idle.append(worker)
                ended.append((job.unit, message))
                reporter.ended(job.unit, message.line)
                if message.how in ("done", "recorded"):
                    unfinished.discard((job.unit.name, job.unit.seed))
    gone = {(unit.name, unit.seed) for unit, _ in ended}
    left = tuple(job.unit for job in planned.todo if (job.unit.name, job.unit.seed) not in gone)
    return Report(planned.skipped, tuple(ended), left)


def _execute_together(planned: Plan, setup: Setup, limit: int | None, reporter: Reporter) -> Report:
    jobs = planned.todo[:limit]
    ended = []
    reporter.begin(len(jobs))
    with closing(reporter):
        for job in jobs:
            reporter.started(job.unit)
            with workspace.locked(setup.folder(job.unit)) as mine:
                if not mine:
                    raise ReproError(f"{label(job.unit)}: somebody else is running it; wait, or choose another --out")
                end = _do(job, setup, lambda m: reporter.advanced(job.unit, m.done, m.total, m.note))  # noqa: B023
            reporter.ended(job.unit, end.line)
            ended.append((job.unit, end))
    return Report(planned.skipped, tuple(ended), tuple(job.unit for job in planned.todo[len(jobs) :]))


@contextmanager
def _pool(size: int, setup: Setup) -> Iterator[list[_Worker]]:
    cores = hardware.cores()
    # One alone takes whichever is free: another command may have one, too.
    own = [{cores[number % len(cores)]} for number in range(size)] if size > 1 else [set(cores)]
    workers = [_Worker(cores, setup) for cores in own]
    try:
        yield list(workers)
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """One process, of one thread, on its cores; a process that dies is replaced when the next job comes."""

    def __init__(self, cores: set[int], setup: Setup) -> None:
        self.cores, self.setup, self.busy = cores, setup, False
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.cores, self.setup), daemon=True)
        with _for_children():
            self.process.start()
        theirs.close()

    def give(self, job: Job) -> Connection:
        if not self.process.is_alive():
            self.start()
        try:
            self.connection.send(job)
        except OSError:  # it died just now
            self.process.join()
            self.start()
            self.connection.send(job)
        self.busy = True
        return self.connection

    def hear(self) -> Advanced | Ended:
        try:
            message = self.connection.recv()
            self.busy = isinstance(message, Advanced)
            return message
        except (EOFError, ConnectionResetError):
            self.busy = False
            self.process.join()
            line = f"failed: its process ended with code {self.process.exitcode} (killed, or out of memory?)"
            return Ended("failed", line, INTERNAL)

    def end(self) -> None:
        """One that waits for a job ends by itself, and tidies up what its libraries hold; one at work is stopped."""
        self.connection.close()
        if not self.busy:
            self.process.join(SECONDS_TO_END)
        self.process.terminate()
        self.process.join()


@contextmanager
def _for_children() -> Iterator[None]:
    """What a process started here inherits: one thread per numeric library, keeping its memory, deafness to Ctrl-C.

    All must hold before the child's first import; only the parent handles an interrupt. The resource tracker is
    started first because starting it clears the signal mask.
    """
    resource_tracker.ensure_running()
    inherited = hardware.ONE_THREAD | {name: os.environ.get(name, own) for name, own in hardware.MEMORY_KEPT.items()}
    before = {name: os.environ.get(name) for name in inherited}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(inherited)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# --- the child -----------------------------------------------------------------------------------------------------


def _serve(connection: Connection, cores: set[int], setup: Setup) -> None:
    """Do one job after the other until the parent hangs up; end at once when it dies."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if setup.backend:
        os.environ[backends.ENVIRONMENT_VARIABLE] = setup.backend
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_attempt(job, setup, connection.send))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(INTERNAL)


def _attempt(job: Job, setup: Setup, tell: Callable[[Advanced], None]) -> Ended:
    try:
        with workspace.locked(setup.folder(job.unit)) as mine:
            return _do(job, setup, tell) if mine else Ended("busy", "somebody else is running it")
    except Exception as error:
        code, line = explain(error)
        return Ended("failed", f"failed: {line}", code, "".join(traceback.format_exception(error)))


def _do(job: Job, setup: Setup, tell: Callable[[Advanced], None]) -> Ended:
    unit, folder, target = job.unit, setup.folder(job.unit), targets.get(job.unit.target)
    if setup.store.has(key(unit), unit.numerics) and (job.recorded is None or _done_meanwhile(job, folder, target)):
        return Ended("recorded", "recorded meanwhile by another command")
    note = workspace.begin(folder, unit.numerics, setup.provenance["dirty"])
    clock = workspace.Clock(folder, note, lambda done, total, words: tell(Advanced(done, total, words)))
    context = Context(folder, setup.data_root, job.inputs, setup.device, setup.backend, clock.progress)
    outcome = crew.run(unit, context) if crew.member() else target.run(unit, context)
    clock.save()
    record = _record(unit, outcome, target, setup, note, clock.seconds)
    if job.recorded and not note.asked and record.correct != job.recorded.correct:
        workspace.keep_only(folder, set())
        where = job.recorded.gpu or job.recorded.cpu
        raise ReproError(
            f"another network came out than the one recorded on {where}, which recorded units start from; "
            "run on such a machine (versions: see its record), or all units anew with --force"
        )
    setup.store.write(record)
    clock.save("done")
    workspace.keep_only(folder, {target.artefact, workspace.NOTE})
    return Ended("done", f"done in {duration(clock.seconds)}")


def _done_meanwhile(job: Job, folder: Path, target: Target) -> bool:
    """Whether another command has done what this job is for: its artefact, and all anew if it was asked for."""
    note = workspace.read(folder)
    return _has_artefact(folder, note, job.unit, target) and (note is not None and job.asked in ("", note.asked))


def _record(unit: Unit, outcome: Outcome, target: Target, setup: Setup, note: Note, seconds: float) -> Record:
    return Record(
        target=unit.target,
        scale=unit.scale,
        unit=unit.name,
        seed=unit.seed,
        settings=dict(unit.settings),
        numerics=unit.numerics,
        values=dict(outcome.values),
        unit_of_values=target.values_unit,
        best=dict(outcome.best),
        correct={column: pack(correct) for column, correct in outcome.correct.items()},
        curve=[dict(point) for point in outcome.curve],
        backend=_backend(setup),
        device=setup.device,
        threads=1,
        workers=setup.workers,
        wall_seconds=round(seconds, 2),
        images_per_second=round(outcome.images / seconds, 1),
        started=note.started,
        preregistration=setup.preregistration,
        **{**setup.provenance, "dirty": note.dirty},
    )


def _backend(setup: Setup) -> str | None:
    """Name of the backend that `backends.get` gives this process; None where the unit loaded no torch at all."""
    if "torch" not in sys.modules:
        return None
    return backends.get(None, setup.device).__name__.split(".")[1]  # type: ignore[attr-defined]
