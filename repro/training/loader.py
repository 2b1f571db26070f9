"""Batches of photographs or clips that are read one by one, by worker processes; any step can be reproduced alone."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from repro.training.batches import normalised
from repro.training.distributed import WHOLE, Part, bounds
from repro.training.streams import stream, torch_seeded


class Items(Protocol):
    """What a data set of photographs or clips offers: item i as (uint8 (..., 3, H, W), class)."""

    def __len__(self) -> int: ...

    def training(self, index: int) -> tuple[Tensor, int]:
        """Augmented: draws from torch's global generator."""

    def plain(self, index: int) -> tuple[Tensor, int]:
        """As it is tested."""


@dataclass(frozen=True)
class _Asked(Dataset):
    """Items as worker processes make them: asked for by (index, key of the augmentation's stream or None)."""

    items: Items
    seed: int = 0

    def __getitem__(self, asked: tuple[int, int | None]) -> tuple[Tensor, int]:
        index, key = asked
        if key is None:
            return self.items.plain(index)
        with torch_seeded(self.seed, "augmentation", key):
            return self.items.training(index)


@dataclass(frozen=True)
class LoadedBatches:
    """Items cut into batches; the same methods as `repro.training.batches.Batches`.

    Data sets are sorted by class, so "the first N" are taken in a fixed order that a stream of its own draws.

    Attributes:
        items: the data set.
        batch: items in a batch over all processes; a training epoch drops the incomplete last one.
        mean, std: that the channels, as 0..1, are normalised by.
        limit: how many items are used, by default all.
        part: this process and how many there are; each gets its part of every batch.
        workers: processes that read, by default one per core that is left. Nothing depends on which one reads what.
    """

    items: Items
    batch: int
    device: str = "cpu"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    limit: int | None = None
    part: Part = WHOLE
    workers: int | None = None

    @cached_property
    def indices(self) -> np.ndarray:
        """The items used, in the fixed order."""
        return stream(0, "sample").permutation(len(self.items))[: self.limit]

    @property
    def size(self) -> int:
        """Number of items used."""
        return len(self.indices)

    def __len__(self) -> int:
        """Batches in a training epoch."""
        return self.size // self.batch

    def training(self, seed: int, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This process' part of the shuffled and augmented batches of one epoch from batch `first` on."""
        order = self.indices[stream(seed, "order", epoch).permutation(self.size)]
        mine = bounds(self.batch, self.part)
        batches = order[: len(self) * self.batch].reshape(len(self), self.batch)[first:, mine]
        return self._read([[(int(i), epoch * len(self.items) + int(i)) for i in batch] for batch in batches], seed)

    def plain(self, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """This process' part of the first `limit` items (default all), as tested; the last batch may be smaller."""
        chosen = self.indices[:limit]
        mine = chosen[bounds(len(chosen), self.part)]
        each = self.batch // self.part[1]
        return self._read([[(int(i), None) for i in mine[at : at + each]] for at in range(0, len(mine), each)])

    def whole(self) -> Self:
        """The same batches, of which this process gets all."""
        return replace(self, part=WHOLE)

    def _read(self, asked: list[list[tuple[int, int | None]]], seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            _Asked(self.items, seed),
            batch_sampler=asked,
            num_workers=_free_cores() if self.workers is None else self.workers,
            pin_memory=self.device.startswith("cuda"),
            generator=torch.Generator(),  # keeps its hands off the global one
        )
        for images, labels in loader:
            yield normalised(images, self.mean, self.std, self.device), labels.to(self.device)


def _free_cores() -> int:
    """Cores that neither this process nor another that trains with it computes on; a daemon may start no process."""
    if multiprocessing.current_process().daemon:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1)
