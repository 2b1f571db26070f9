"""Writing files so that a reader finds the old content or the new one, never a part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO


def publish(file: IO[bytes], path: Path) -> None:
    """Force a finished temporary file to the disk and give it its name, replacing what was there.

    Temporary file and `path` must be on one file system. Raises `OSError`.
    """
    file.flush()
    os.fsync(file.fileno())
    os.replace(file.name, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file atomically and return its path; makes its folder.

    Raises `OSError`, and leaves the old file and nothing else, when that fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            publish(file, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically, in UTF-8, with line ends as given."""
    return write_bytes(path, text.encode("utf-8"))
