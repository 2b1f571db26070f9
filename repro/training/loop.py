"""The training loop: schedules, checkpoints that survive a kill, and a resume that ends with the same numbers."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from repro.errors import UsageError
from repro.training import distributed
from repro.training.batches import AnyBatches
from repro.training.evaluate import top1

CHECKPOINT_SECONDS = 30.0

Step = Callable[[Tensor, Tensor, int], float]
"""Forward and backward passes of one batch (images, labels, number of the step), gradients accumulated: the loss."""
Evaluate = Callable[[], dict[str, np.ndarray]]
"""Correctness of every test image, by column."""


@dataclass
class History:
    """What a training has shown so far: a point of `curve` per epoch, correctness after the last and the best one.

    The best epoch is that with the largest sum of top-1 over the columns, the first such one; `best` are its top-1.
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    last: dict[str, np.ndarray] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_hits: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, loss: float, hits: dict[str, np.ndarray]) -> bool:
        """Take in an epoch; gives whether it is the best so far."""
        scores = {column: top1(hit) for column, hit in hits.items()}
        self.curve.append({"epoch": len(self.curve) + 1, "loss": round(loss, 6), **scores})
        self.last = hits
        better = not self.best or sum(scores.values()) > sum(self.best.values())
        if better:
            self.best, self.best_hits = scores, hits
        return better


SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    "cosine": lambda step, steps: (1 + math.cos(math.pi * step / steps)) / 2,
    "linear": lambda step, steps: 1 - step / steps,
}
"""Learning-rate factors that fall from 1 to 0, by name: of a step and the number of steps."""


def rate_factor(step: int, steps: int, warmup: int = 0, schedule: str = "cosine") -> float:
    """Learning-rate factor: `step / warmup` before step `warmup`, then the schedule over the steps that are left.

    >>> rate_factor(0, 10), round(rate_factor(5, 10), 3), rate_factor(10, 10)
    (1.0, 0.5, 0.0)
    >>> rate_factor(1, 12, warmup=2), rate_factor(2, 12, warmup=2), rate_factor(10, 12, 2, "linear")
    (0.5, 1.0, 0.19999999999999996)
    """
    if step < warmup:
        return step / warmup
    return SCHEDULES[schedule](step - warmup, max(1, steps - warmup))


def save(state: object, path: Path) -> None:
    """`torch.save` that leaves the old file or the new one, never half of one; of several processes one writes."""
    if not distributed.leads():
        return
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path, device: str = "cpu") -> dict:
    """The state that `save` wrote; nothing in the file is executed."""
    return torch.load(path, map_location=device, weights_only=True)


class Training:
    """A network in training: everything that a checkpoint holds.

    Args:
        network, optimizer: trained in place; the optimizer's learning rates are the peaks of its schedule.
        batches: training data; `seed` keys its order and augmentation.
        epochs: length of the schedule, of which the first `warmup` steps let the learning rate rise from 0.
        checkpoint: file that the state is kept in; an existing one is resumed from.
        keep_best: whether the network ends as it was after its best epoch, and not as after the last.
        schedule: one of `SCHEDULES`.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: AnyBatches,
        *,
        seed: int,
        epochs: int,
        checkpoint: Path,
        warmup: int = 0,
        keep_best: bool = False,
        schedule: str = "cosine",
    ) -> None:
        self.network, self.optimizer, self.batches = network, optimizer, batches
        self.seed, self.epochs, self.checkpoint = seed, epochs, checkpoint
        self.step, self.loss_sum = 0, 0.0
        self.history = History()
        self.keep_best = keep_best
        self.best_network: dict[str, Tensor] | None = None
        if not len(batches):
            raise UsageError(f"batch={batches.batch}: give at most the {batches.size} training images that there are")
        steps = self.steps = epochs * len(batches)
        # Not by self.steps: in a cycle with its schedule, a finished training would keep its images in memory.
        self.scheduler = LambdaLR(optimizer, lambda step: rate_factor(step, steps, warmup, schedule))
        if checkpoint.exists():
            self._restore(load(checkpoint))

    def run(self, train: Step, evaluate: Evaluate, progress: Callable[[int, int, str], None]) -> History:
        """Train to the end, evaluating after each epoch. Killed at any point, a new run ends with the same numbers."""
        length = len(self.batches)
        saved = time.monotonic()
        while (epoch := self.step // length) < self.epochs:
            self.network.train()
            for images, labels in self.batches.training(self.seed, epoch, self.step % length):
                self.optimizer.zero_grad(set_to_none=True)
                self.loss_sum += distributed.mean(train(images, labels, self.step), self.batches.device)
                distributed.synchronise(self.network)
                self.optimizer.step()
                self.scheduler.step()
                self.step += 1
                if self.step % length and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
                progress(self.step, self.steps, self._note())
            if self.history.add(self.loss_sum / length, evaluate()) and self.keep_best:
                self.best_network = {key: tensor.clone() for key, tensor in self.network.state_dict().items()}
            self.loss_sum = 0.0
            self._save()
            saved = time.monotonic()
        if self.best_network is not None:
            self.network.load_state_dict(self.best_network)
        return self.history

    def _note(self) -> str:
        if not self.history.curve:
            return ""
        scores = [f"{value:.1f}" for key, value in self.history.curve[-1].items() if key not in ("epoch", "loss")]
        return f"epoch {len(self.history.curve)}" + (f": {' / '.join(scores)} %" if scores else "")

    def _save(self) -> None:
        history = self.history
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.scheduler.state_dict(),
            "step": self.step,
            "loss_sum": self.loss_sum,
            "curve": history.curve,
            "best": history.best,
            "last": {column: torch.from_numpy(hits) for column, hits in history.last.items()},
            "best_hits": {column: torch.from_numpy(hits) for column, hits in history.best_hits.items()},
            "best_network": self.best_network,
        }
        save(state, self.checkpoint)

    def _restore(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["schedule"])
        self.step, self.loss_sum = state["step"], state["loss_sum"]
        last, best = ({c: hits.numpy() for c, hits in state[key].items()} for key in ("last", "best_hits"))
        self.history = History(state["curve"], last, state["best"], best)
        self.best_network = state["best_network"]
