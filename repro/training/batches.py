"""Batches of small images: shuffled and augmented by keyed streams, so that any step can be reproduced on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repro.training.streams import stream

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
PADDING = 4


def crop_and_flip(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random crop after padding by 4 with black, and horizontal flip with probability 1/2.

    Shapes: (N, C, H, W) in, the same out; any dtype. Source: the CIFAR-10 recipe of paper B (a constant of ours).
    """
    n, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    top, left = generator.integers(0, 2 * PADDING + 1, size=(2, n))
    flipped = generator.random(n) < 0.5
    crops = windows[np.arange(n), :, top, left]
    crops[flipped] = crops[flipped, :, :, ::-1]
    return crops


@dataclass(frozen=True)
class Batches:
    """Images and labels with their normalisation, cut into batches.

    Attributes:
        images: uint8 (N, 3, H, W), may be memory-mapped.
        labels: integers (N,).
        batch: images in a batch; a training epoch drops the incomplete last one.
    """

    images: np.ndarray
    labels: np.ndarray
    batch: int
    device: str = "cpu"
    mean: tuple[float, ...] = CIFAR10_MEAN
    std: tuple[float, ...] = CIFAR10_STD

    def __len__(self) -> int:
        """Batches in a training epoch."""
        return len(self.images) // self.batch

    def training(self, seed: int, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The shuffled and augmented batches of one epoch from batch `first` on: (images, labels)."""
        order = stream(seed, "order", epoch).permutation(len(self.images))
        for index in range(first, len(self)):
            chosen = order[index * self.batch : (index + 1) * self.batch]
            images = crop_and_flip(self.images[chosen], stream(seed, "augmentation", epoch * len(self) + index))
            yield self._tensors(images, self.labels[chosen])

    def plain(self, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The first `limit` images (default all) in stored order, unaltered; the last batch may be smaller."""
        end = len(self.images) if limit is None else min(limit, len(self.images))
        for start in range(0, end, self.batch):
            part = slice(start, min(start + self.batch, end))
            yield self._tensors(self.images[part], self.labels[part])

    def _tensors(self, images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(np.array(images)).to(self.device).float().div_(255)
        mean, std = (torch.tensor(v, device=self.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        x = x.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
        return x, torch.from_numpy(labels.astype(np.int64)).to(self.device)
