"""Writing files so that a reader finds the old content or the new one, never a part."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO


def publish(file: IO[bytes], path: Path) -> None:
    """Force a finished temporary file to the disk and give it its name, replacing what was there.

    Temporary file and `path` must be on one file system.
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
    """Write a file atomically; makes its folder. Raises `OSError` and leaves nothing behind when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
            publish(file, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically, UTF-8, line ends as given."""
    return write_bytes(path, text.encode("utf-8"))
