"""How far the units of a command are, on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import TaskID

    from repro.targets import Unit

SECONDS_BETWEEN_LINES = 10.0


class Reporter(Protocol):
    """What the runner tells while units run."""

    def begin(self, total: int) -> None:
        """So many units are about to run."""

    def started(self, unit: Unit) -> None:
        """A worker took this unit."""

    def advanced(self, unit: Unit, done: int, total: int, note: str) -> None:
        """The unit is `done` of `total` steps far."""

    def ended(self, unit: Unit, how: str) -> None:
        """The unit left its worker: finished, failed or held by somebody else."""

    def close(self) -> None:
        """No unit runs any more."""


def label(unit: Unit) -> str:
    """One unit in words.

    >>> from repro.targets import Unit
    >>> label(Unit("table1", "cpu", "dq8", 2, {}, 1))
    'table1 cpu dq8, seed 2'
    """
    return f"{unit.target} {unit.scale} {unit.name}, seed {unit.seed}"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that reads well.

    >>> duration(7.3), duration(200), duration(9000)
    ('7.3 s', '3.3 min', '2.5 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


class Lines:
    """A line when a unit starts and ends, and at most one each ten seconds between."""

    def __init__(self, seconds_between: float = SECONDS_BETWEEN_LINES) -> None:
        self.seconds_between = seconds_between
        self.total = self.finished = 0
        self.first: dict[str, tuple[float, int]] = {}
        self.last: dict[str, float] = {}

    def begin(self, total: int) -> None:
        self.total, self.finished = total, 0

    def started(self, unit: Unit) -> None:
        self.first.pop(label(unit), None)
        self.last[label(unit)] = monotonic()
        self._say(f"{label(unit)}: started")

    def advanced(self, unit: Unit, done: int, total: int, note: str) -> None:
        now = monotonic()
        then, start = self.first.setdefault(label(unit), (now, done))
        if now - self.last[label(unit)] < self.seconds_between or done <= start:
            return
        self.last[label(unit)] = now
        rate = (done - start) / (now - then)
        self._say(f"{label(unit)}: {done}/{total}, {rate:.3g}/s, {duration((total - done) / rate)} left  {note}")

    def ended(self, unit: Unit, how: str) -> None:
        self.finished += 1
        self._say(f"{label(unit)}: {how}")

    def close(self) -> None:
        pass

    def _say(self, line: str) -> None:
        print(f"[{self.finished}/{self.total}] {line.rstrip()}", file=sys.stderr, flush=True)


class Bars:
    """A bar for all units and one for each that runs, with rate and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            speed_estimate_period=120,
        )
        self.tasks: dict[str, TaskID] = {}

    def begin(self, total: int) -> None:
        self.bars.start()
        self.tasks["all"] = self.bars.add_task("all units", total=total, rate="", note="")

    def started(self, unit: Unit) -> None:
        self.tasks[label(unit)] = self.bars.add_task(label(unit), total=None, rate="", note="")

    def advanced(self, unit: Unit, done: int, total: int, note: str) -> None:
        task = self.tasks[label(unit)]
        speed = self.bars.tasks[self.bars.task_ids.index(task)].speed
        rate = f"{speed:.3g}/s" if speed else ""
        self.bars.update(task, completed=done, total=total, rate=rate, note=note)

    def ended(self, unit: Unit, how: str) -> None:
        self.bars.remove_task(self.tasks.pop(label(unit)))
        self.bars.advance(self.tasks["all"])
        self.bars.console.print(f"{label(unit)}: {how}", markup=False, highlight=False)

    def close(self) -> None:
        self.bars.stop()


def reporter() -> Reporter:
    """The one that fits where stderr goes."""
    return Bars() if sys.stderr.isatty() else Lines()
