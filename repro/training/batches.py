"""Batches of small images: shuffled and augmented by keyed streams, so that any step can be reproduced on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from repro.training.distributed import WHOLE, Part, bounds
from repro.training.streams import stream

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
PADDING, FLIP = 4, 0.5


def crop_and_flip(
    images: np.ndarray, generator: np.random.Generator, padding: int = PADDING, flip: float = FLIP
) -> np.ndarray:
    """Random crop of the old size after padding with black pixels, and horizontal flip with probability `flip`.

    Shapes: (N, C, H, W) in, the same out; any dtype. Another padding draws other flips too.

    Source: usual for CIFAR-10; paper B does not say.
    """
    n, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    top, left = generator.integers(0, 2 * padding + 1, size=(2, n))
    flipped = generator.random(n) < flip
    crops = windows[np.arange(n), :, top, left]
    crops[flipped] = crops[flipped, :, :, ::-1]
    return crops


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], device: str) -> Tensor:
    """`(x / 255 - mean) / std` by channel, on a device: uint8 (..., 3, H, W) to float of the same shape.

    Images (N, 3, H, W) come out channels-last.
    """
    x = images.to(device).float().div_(255)
    x = x.sub_(torch.tensor(mean, device=device).view(-1, 1, 1)).div_(torch.tensor(std, device=device).view(-1, 1, 1))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


class AnyBatches(Protocol):
    """What training and evaluation ask of data, whole in memory (`Batches`) or read as needed (`LoadedBatches`)."""

    @property
    def batch(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def size(self) -> int: ...

    def __len__(self) -> int: ...

    def training(self, seed: int, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...

    def plain(self, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]: ...

    def whole(self) -> Self:
        """The same batches, of which this process gets all."""


@dataclass(frozen=True)
class Batches:
    """Images and labels with their normalisation, cut into batches.

    Attributes:
        images: uint8 (N, 3, H, W), may be memory-mapped.
        labels: integers (N,).
        batch: images in a batch over all processes; a training epoch drops the incomplete last one.
        part: this process and how many there are; each gets its part of every batch.
        padding, flip: of the augmentation, see `crop_and_flip`.
    """

    images: np.ndarray
    labels: np.ndarray
    batch: int
    device: str = "cpu"
    mean: tuple[float, ...] = CIFAR10_MEAN
    std: tuple[float, ...] = CIFAR10_STD
    part: Part = WHOLE
    padding: int = PADDING
    flip: float = FLIP

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.images)

    def __len__(self) -> int:
        """Batches in a training epoch."""
        return len(self.images) // self.batch

    def training(self, seed: int, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This process' part of the shuffled and augmented batches of one epoch from batch `first` on.

        Each is (images, labels). The whole batch is augmented, so that no draw depends on the number of processes.
        """
        order = stream(seed, "order", epoch).permutation(len(self.images))
        mine = bounds(self.batch, self.part)
        for index in range(first, len(self)):
            chosen = order[index * self.batch : (index + 1) * self.batch]
            draws = stream(seed, "augmentation", epoch * len(self) + index)
            images = crop_and_flip(self.images[chosen], draws, self.padding, self.flip)
            yield self._tensors(images[mine], self.labels[chosen[mine]])

    def plain(self, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """This process' part of the first `limit` images (default all), unaltered; the last batch may be smaller."""
        mine = bounds(len(self.images[:limit]), self.part)
        each = self.batch // self.part[1]
        for start in range(mine.start, mine.stop, each):
            part = slice(start, min(start + each, mine.stop))
            yield self._tensors(self.images[part], self.labels[part])

    def whole(self) -> Self:
        """The same batches, of which this process gets all."""
        return replace(self, part=WHOLE)

    def _tensors(self, images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        x = normalised(torch.from_numpy(np.array(images)), self.mean, self.std, self.device)
        return x, torch.from_numpy(labels.astype(np.int64)).to(self.device)
