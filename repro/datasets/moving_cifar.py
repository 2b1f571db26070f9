"""Moving CIFAR: clips of eight frames in which a piece of one CIFAR-10 image moves over another in one of eight ways.

The stand-in for Mini-Kinetics. Two labels could be asked for. The *motion* needs the order of the frames: right
backwards is left, growing backwards is shrinking. A network that averages over frames is blind to order, so it could
never learn it, and would prove nothing. The clips are therefore labelled by the class of the image *behind*: the piece
hides another part of it in each frame, which is what averaging over frames can make good.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repro.datasets import cifar10
from repro.datasets.mini_kinetics import segments

if TYPE_CHECKING:
    from torch import Tensor

MOTIONS = ("right", "left", "down", "up", "growing", "shrinking", "still", "diagonal")
FRAMES = 8
SIDE = 32
PIECE = 16
"""Pixels of a side of the piece; `growing` and `shrinking` go from half of it to one and a half."""


def clip(behind: np.ndarray, over: np.ndarray, motion: str, generator: np.random.Generator) -> np.ndarray:
    """Eight frames of `motion`: uint8 (3, 32, 32) twice to uint8 (8, 3, 32, 32). Draws the piece and its path.

    >>> black, white = np.zeros((3, 32, 32), np.uint8), np.full((3, 32, 32), 255, np.uint8)
    >>> frames = clip(black, white, "growing", np.random.default_rng(0))
    >>> [int(frame[0].sum() / 255) for frame in frames[[0, 7]]]  # pixels that the piece covers: 8 x 8, 24 x 24
    [64, 576]
    """
    time = np.linspace(0, 1, FRAMES)
    free = SIDE - PIECE
    top, left, crop_top, crop_left = generator.integers(0, free + 1, 4)
    piece = over[:, crop_top : crop_top + PIECE, crop_left : crop_left + PIECE]
    sides, tops, lefts = np.full(FRAMES, PIECE), np.full(FRAMES, top), np.full(FRAMES, left)
    path = np.rint(time * free).astype(int)
    match motion:
        case "right":
            lefts = path
        case "left":
            lefts = path[::-1]
        case "down":
            tops = path
        case "up":
            tops = path[::-1]
        case "diagonal":
            tops = lefts = path
        case "growing" | "shrinking":
            sides = 2 * np.rint(PIECE / 2 * (0.5 + time)).astype(int)[:: 1 if motion == "growing" else -1]
            tops = lefts = (SIDE - sides) // 2
        case "still":
            pass
        case _:
            raise ValueError(f"motion={motion!r}: not one of {', '.join(MOTIONS)}")
    frames = np.repeat(behind[None], FRAMES, 0)
    for frame, side, y, x in zip(frames, sides, tops, lefts, strict=True):
        nearest = np.arange(side) * PIECE // side
        frame[:, y : y + side, x : x + side] = piece[:, nearest[:, None], nearest]
    return frames


class MovingCIFAR:
    """One split: item i is (uint8 (T, 3, 32, 32), class of image i, which lies behind).

    Piece, motion and path of clip i are drawn from (seed, i) alone; all images are of the split.

    Args:
        frames: T, the number of segments of the eight frames; one of each is shown.
        flip: probability that a clip is mirrored in training.
    """

    def __init__(
        self,
        split: cifar10.Split,
        frames: int = FRAMES,
        seed: int = 0,
        data_root: Path | str | None = None,
        flip: float = 0.5,
    ) -> None:
        self.data = cifar10.load(split, data_root)
        self.frames, self.seed, self.flip = frames, seed, flip

    def __len__(self) -> int:
        return len(self.data)

    def whole(self, index: int) -> tuple[np.ndarray, str]:
        """All eight frames of clip `index`, and their motion."""
        generator = np.random.default_rng((self.seed, index))
        motion, other = MOTIONS[generator.integers(len(MOTIONS))], generator.integers(len(self))
        return clip(self.data.images[index], self.data.images[other], motion, generator), motion

    def training(self, index: int) -> tuple[Tensor, int]:
        """Item `index`, a frame of each segment, and mirrored or not: drawn from torch's global generator."""
        import torch

        shown = self._shown(index, torch.rand(self.frames).tolist())
        return shown.flip(-1) if torch.rand(()) < self.flip else shown, int(self.data.labels[index])

    def plain(self, index: int) -> tuple[Tensor, int]:
        """Item `index`, the centre of each segment."""
        return self._shown(index, [0.5] * self.frames), int(self.data.labels[index])

    def _shown(self, index: int, places: list[float]) -> Tensor:
        import torch

        return torch.from_numpy(self.whole(index)[0][segments(FRAMES, places)])
