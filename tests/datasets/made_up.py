"""Small data sets in the layouts of the real ones, made of random pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from repro.datasets.cifar10 import CIFAR10


def cifar10(train: int = 80, test: int = 80) -> Callable[[str, Path | None], CIFAR10]:
    """Stands for `repro.datasets.cifar10.load`: so many pictures of noise, their classes by turns."""

    def load(split: str, data_root: Path | None) -> CIFAR10:
        seed, n = {"train": (0, train), "test": (1, test)}[split]
        return CIFAR10(np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), np.uint8), np.arange(n) % 10)

    return load


def imagenet(root: Path, classes: int = 3, train: int = 4, val: int = 2, side: int = 40) -> Path:
    """`imagenet/{train,val}/<class>/*.JPEG`; class k is a shade of its own with noise over it."""
    random = np.random.default_rng(0)
    for split, images in (("train", train), ("val", val)):
        for label in range(classes):
            folder = root / "imagenet" / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(images):
                shade = 255 * label // max(classes - 1, 1)
                pixels = random.integers(-60, 60, (side, side + 8, 3)) + shade
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.JPEG")
    return root


def mini_kinetics(root: Path, classes: int = 3, clips: int = 2, frames: int = 6, side: int = 40) -> Path:
    """Frame folders and lists; frame i of every clip is grey of the shade 20 i, and a class has a blank in its name."""
    for split in ("train", "val"):
        lines = []
        for label in range(classes):
            for clip in range(clips):
                name = f"frames/class {label}/{split}{clip}"
                folder = root / "mini_kinetics" / name
                folder.mkdir(parents=True)
                for number in range(frames):
                    Image.new("RGB", (side + 8, side), (20 * number,) * 3).save(folder / f"{number + 1:05d}.jpg")
                lines.append(f"{name} {frames} {label}\n")
        (root / "mini_kinetics" / f"{split}.txt").write_text("".join(lines))
    return root
