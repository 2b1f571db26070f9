"""Where data lie and how they get there: the data root, checksums, one fetch at a time, sources in order."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from repro.errors import ReproError

Report = Callable[[str], None]


class SourceError(Exception):
    """One source did not give the data; the text is the short reason. The next source is tried."""


def quiet(line: str) -> None:
    """The reporter that says nothing."""


def root(data_root: Path | str | None = None) -> Path:
    """The folder that holds all data: the argument, else `REPRO_DATA`, else `repro` in the user's cache folder.

    The cache folder is `XDG_CACHE_HOME`, by default `~/.cache`. Nothing is created here. Raises `ReproError` for the
    home of a user that there is not.

    >>> root("/data")
    PosixPath('/data')
    """
    if data_root is None:
        data_root = os.environ.get("REPRO_DATA") or None
    if data_root is None:
        data_root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "repro"
    try:
        return Path(data_root).expanduser().absolute()
    except RuntimeError as error:
        raise ReproError(f"{data_root}: no such home; name another folder by --data-root or REPRO_DATA") from error


def md5(body: bytes | memoryview) -> str:
    """MD5 of a body in hexadecimal.

    >>> md5(b"")
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def read(path: Path) -> bytes:
    """The body of a file; raises `ReproError` where this user may not read it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReproError(f"cannot read {path}: {error.strerror}: give this user leave to read it") from error


def write(path: Path, body: bytes | memoryview) -> None:
    """Write a file so that its name never stands for part of its content, even if this process is killed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def only_one(lock: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold `lock` against all other processes; `waiting()` is called once if another one holds it now.

    The operating system frees the lock when its holder ends, however it ends.
    """
    with lock.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new, empty folder that is removed afterwards; one left behind by a killed process is removed first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def provide(
    what: str,
    key: str,
    folder: Path,
    names: Iterable[str],
    fetch: Callable[[list[str], Path, Report], None],
    report: Report,
) -> Path:
    """`folder` with the files `names`: `fetch(missing, scratch folder, report)` puts there what is missing.

    One process at a time fetches what is known by `key`. Raises `ReproError` where the folder cannot be written to.
    """

    def missing() -> list[str]:
        return [name for name in names if not (folder / name).is_file()]

    if not missing():
        return folder
    lock, partial = (folder.with_name(f".{key}.{kind}") for kind in ("lock", "partial"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(lock, lambda: report(f"another process fetches {what}: waiting for it")):
            if absent := missing():
                with scratch(partial) as temporary:
                    fetch(absent, temporary, report)
    except OSError as error:
        remedy = "make room or name another folder by REPRO_DATA"
        raise ReproError(f"cannot write {what} to {folder}: {error.strerror}: {remedy}") from error
    return folder


def run(command: Sequence[str | Path], folder: Path) -> None:
    """Run a program in `folder` without showing its output; raises `SourceError` with the first error it printed."""
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise SourceError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise SourceError(_first_error(done.stderr) or f"exit code {done.returncode}")


def _first_error(output: str) -> str:
    """The first line that names an error; not one of a traceback's code, which is indented, nor a warning."""
    errors = [line for line in output.splitlines() if "error" in line.lower() and not line.startswith((" ", "WARN"))]
    return errors[0].strip()[:160] if errors else ""


def first_of(what: str, sources: Mapping[str, Callable[[], None]], remedy: str, report: Report) -> None:
    """Run the sources in order until one works; raises `ReproError` with the reason of each when none does."""
    reasons = []
    for name, source in sources.items():
        try:
            source()
        except SourceError as error:
            reasons.append(f"{name}: {error}")
            report(reasons[-1])
        else:
            return
    raise ReproError(f"no source gave {what} ({'; '.join(reasons)}): {remedy}")
