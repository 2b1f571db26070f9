"""The folder of a unit: its lock, its note, and the clock that keeps the note while the unit runs."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Literal

from repro.evidence.files import write_text

NOTE = "unit.json"
SECONDS_BETWEEN_MESSAGES = 0.2
SECONDS_BETWEEN_NOTES = 3.0


@dataclass(frozen=True)
class Note:
    """What is known of the files in a unit's folder.

    Attributes:
        numerics: that they were made under.
        seconds: spent on them, over all resumptions.
        started: when the first of these began, ISO 8601, UTC.
        dirty: whether any of these ran uncommitted code.
        state: `waiting` to begin anew, `running` (perhaps killed), or `done`: what they hold is what is recorded.
        asked: the forced command, if any, that the unit runs for although it was recorded.
    """

    numerics: int
    state: Literal["waiting", "running", "done"]
    seconds: float = 0.0
    started: str = ""
    dirty: bool = False
    asked: str = ""

    @property
    def unfinished(self) -> str:
        """The forced command that the unit was to run for and has not ended; empty where there is none."""
        return "" if self.state == "done" else self.asked


def read(folder: Path) -> Note | None:
    """The folder's note; none where it is missing or unreadable. An earlier version's, without a state, is done."""
    try:
        return Note(**{"state": "done", **json.loads((folder / NOTE).read_text())})
    except (OSError, ValueError, TypeError):
        return None


def write(folder: Path, note: Note) -> None:
    """Keep a note, the old one or the new one whole."""
    write_text(folder / NOTE, json.dumps(asdict(note)))


def ask(folder: Path, numerics: int, asked: str) -> None:
    """Note that a unit is to run from its start for a forced command; one that does so already goes on."""
    note = read(folder)
    if note is None or note.unfinished != asked:
        write(folder, Note(numerics, "waiting", asked=asked))


def begin(folder: Path, numerics: int, dirty: bool) -> Note:
    """The note to go on with; files of other numerics, of a finished run or before one that begins anew are deleted."""
    note = read(folder)
    if note is None or note.numerics != numerics or note.state != "running":
        keep_only(folder, {NOTE})
        started = datetime.now(UTC).isoformat(timespec="seconds")
        note = Note(numerics, "running", started=started, asked=note.unfinished if note else "")
    return replace(note, dirty=note.dirty or dirty)


def keep_only(folder: Path, names: set[str]) -> None:
    """Delete all files and folders but these and the lock."""
    for path in folder.iterdir():
        if path.name not in names | {"lock"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Gives whether the folder is this process's alone, within."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


class Clock:
    """Seconds that a unit has run, over all its resumptions; passes its progress on and keeps its note."""

    def __init__(self, folder: Path, note: Note, tell: Callable[[int, int, str], None]) -> None:
        self.folder, self.note, self.tell = folder, note, tell
        self.start = self.told = monotonic()
        self.save()

    @property
    def seconds(self) -> float:
        """So far."""
        return self.note.seconds + monotonic() - self.start

    def progress(self, done: int, total: int, note: str) -> None:
        """Hear how far the unit is; tell it, and note the time, not too often."""
        now = monotonic()
        if now - self.told >= SECONDS_BETWEEN_MESSAGES or done == total:
            self.told = now
            self.tell(done, total, note)
        if now - self.saved >= SECONDS_BETWEEN_NOTES:
            self.save()

    def save(self, state: Literal["running", "done"] = "running") -> None:
        """Write the note."""
        self.saved = monotonic()
        write(self.folder, replace(self.note, seconds=round(self.seconds, 2), state=state))
