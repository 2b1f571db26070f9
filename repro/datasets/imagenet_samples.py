"""Twenty photographs with their ImageNet labels, which come with a package and so are at hand everywhere."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from repro.datasets import files
from repro.datasets.registries import from_wheel
from repro.errors import ReproError

PACKAGE = "foolbox==3.3.4"
FOLDER = "imagenet-samples"
MD5 = {
    "imagenet_00_243.jpg": "49f3e9a234d30bd343f471a2951aadbd",
    "imagenet_01_559.jpg": "a222062719d7673d727746b7bd236ac6",
    "imagenet_02_438.jpg": "89df831b4895db47adc4d45e0dcee3d9",
    "imagenet_03_990.jpg": "96f36c1167edffea9e7e6f522f888558",
    "imagenet_04_949.jpg": "a2b7a0f2916afbd60d1ae7f762ffc6e0",
    "imagenet_05_853.jpg": "2d211288c5525bea006ed790656cc8a2",
    "imagenet_06_609.jpg": "51dbbc21e753eb5db75667b414203fdb",
    "imagenet_07_609.jpg": "1c7c7b6e5b16b47eb37ba7fa40f4a6c3",
    "imagenet_08_915.jpg": "77c083395614303f8ce747c2adbdc1f3",
    "imagenet_09_455.jpg": "d669ecafa9d79d1c0e0cbd3aa4195939",
    "imagenet_10_541.jpg": "4b71ef95964a3ca037cbdc0b1b62770f",
    "imagenet_11_630.jpg": "4f9ea3fdda8f653e30965d4317c25943",
    "imagenet_12_741.jpg": "9413cae2030e46d6d576fc1bf9d7a249",
    "imagenet_13_471.jpg": "3491a2ce7dfe51385b8cece835d17f65",
    "imagenet_14_129.jpg": "5662f1302d46404d6ad293db1c88349e",
    "imagenet_15_99.jpg": "6c29ae4bbef53956e86c64fc5b4c0a83",
    "imagenet_16_251.jpg": "47a211ff97f50e86de46b9e180062fde",
    "imagenet_17_22.jpg": "906bd567d8c8fb81d4b3271fcc28b9e4",
    "imagenet_18_317.jpg": "4679d4b6a013f54f7b7c8967fc4bbea2",
    "imagenet_19_305.jpg": "9b06c5cbc7addd99d630be75eb3ed370",
}
CROP = 0.875


@dataclass(frozen=True)
class Samples:
    """`images`: uint8 (20, 3, size, size); `labels`: int64 (20,), 0..999 in ImageNet's order. Both are read-only."""

    images: np.ndarray
    labels: np.ndarray


def load(size: int = 224, data_root: Path | str | None = None, report: files.Report = files.quiet) -> Samples:
    """All twenty in the order of their names: short side to `size / .875` (bicubic), then the centre cut out.

    What is not under the data root yet is fetched; the bytes that were checked are the bytes decoded. Raises
    `ReproError` naming the file when it is not the expected one, and when no source gives them.
    """
    folder = _provide(files.root(data_root), report)
    images = np.stack([_centre(_verified(folder / name), size) for name in MD5])
    labels = np.array([int(Path(name).stem.rpartition("_")[2]) for name in MD5])
    images.flags.writeable = labels.flags.writeable = False
    return Samples(images, labels)


def fetch(data_root: Path | str | None = None, report: files.Report = files.quiet) -> Path:
    """Find or fetch all files and verify every one; gives their folder. Raises as `load` does."""
    folder = _provide(files.root(data_root), report)
    for name in MD5:
        _verified(folder / name)
    return folder


def _verified(path: Path) -> bytes:
    body = files.read(path)
    if files.md5(body) != MD5[path.name]:
        raise ReproError(
            f"{path} is not the expected file (its MD5 differs): delete it and run `python -m repro data "
            "imagenet_samples`"
        )
    return body


def _centre(body: bytes, size: int) -> np.ndarray:
    """uint8 (3, size, size) of a JPEG file."""
    from PIL import Image

    with Image.open(io.BytesIO(body)) as picture:
        scale = int(size / CROP) / min(picture.size)
        width, height = (round(side * scale) for side in picture.size)
        resized = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def _provide(root: Path, report: files.Report) -> Path:
    """The folder with all files; those that are missing are fetched."""
    folder = root / FOLDER
    return files.provide("the ImageNet samples", FOLDER, folder, MD5, partial(_fill, folder), report)


def _fill(folder: Path, missing: list[str], scratch: Path, report: files.Report) -> None:
    def from_package() -> None:
        found = from_wheel(PACKAGE, lambda path: path.startswith("foolbox/data/imagenet_"), scratch, report)
        for name in missing:
            if files.md5(found.get(name, b"")) != MD5[name]:
                raise files.SourceError(f"its {name} has another MD5 than expected")
            files.write(folder / name, found[name])

    remedy = f"put imagenet_00_243.jpg and the nineteen others of {PACKAGE} into {folder}"
    files.first_of("the ImageNet samples", {f"PyPI package {PACKAGE}": from_package}, remedy, report)
    report(f"ImageNet samples are in {folder}")
