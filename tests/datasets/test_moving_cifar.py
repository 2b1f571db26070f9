"""Moving CIFAR: each motion is what its name says, and clips are those of their seed and their split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repro.datasets import moving_cifar
from repro.datasets.cifar10 import CIFAR10
from repro.datasets.moving_cifar import FRAMES, MOTIONS, PIECE, MovingCIFAR, clip

BLACK, WHITE = np.zeros((3, 32, 32), np.uint8), np.full((3, 32, 32), 255, np.uint8)


@pytest.fixture(autouse=True)
def made_up_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training images are dark (below 100), test images bright."""

    def load(split: str, data_root: object) -> CIFAR10:
        rng = np.random.default_rng(0)
        low, high = {"train": (0, 100), "test": (150, 250)}[split]
        return CIFAR10(rng.integers(low, high, (64, 3, 32, 32)).astype(np.uint8), np.arange(64) % 10)

    monkeypatch.setattr(moving_cifar.cifar10, "load", load)


def centres(motion: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of the piece's centre, and its area, by frame."""
    covered = clip(BLACK, WHITE, motion, np.random.default_rng(1))[:, 0] > 0
    area = covered.sum((1, 2))
    rows, columns = (covered.sum(axis) @ np.arange(32) / area for axis in (2, 1))
    return rows, columns, area


@pytest.mark.parametrize(
    ("motion", "row", "column", "area"),
    [
        ("right", 0, 1, 0), ("left", 0, -1, 0), ("down", 1, 0, 0), ("up", -1, 0, 0), ("growing", 0, 0, 1),
        ("shrinking", 0, 0, -1), ("still", 0, 0, 0), ("diagonal", 1, 1, 0),
    ],
)  # fmt: skip
def test_a_motion_is_what_its_name_says(motion: str, row: int, column: int, area: int) -> None:
    for values, direction in zip(centres(motion), (row, column, area), strict=True):
        assert (np.sign(np.diff(values)) == direction).all()


def test_reversed_in_time_a_motion_is_its_opposite() -> None:
    """So a network that is blind to the order of frames cannot tell the two apart."""
    for one, other in (("right", "left"), ("down", "up"), ("growing", "shrinking")):
        a, b = (clip(BLACK, WHITE, motion, np.random.default_rng(1)) for motion in (one, other))
        np.testing.assert_array_equal(a[::-1], b)


def test_outside_the_piece_a_clip_is_the_image_behind() -> None:
    behind = np.random.default_rng(0).integers(0, 100, (3, 32, 32)).astype(np.uint8)
    frames = clip(behind, WHITE, "right", np.random.default_rng(1))
    np.testing.assert_array_equal(frames[frames < 255], np.broadcast_to(behind, frames.shape)[frames < 255])
    assert ((frames == 255).sum((1, 2, 3)) == 3 * PIECE**2).all()
    seen = (frames < 255).any(0)
    assert seen.sum() > (frames[0] < 255).sum()  # over the frames more of it shows than in any one


def test_clips_are_those_of_their_seed_and_of_their_split() -> None:
    train, again, other = MovingCIFAR("train"), MovingCIFAR("train"), MovingCIFAR("train", seed=1)
    assert {train.whole(i)[1] for i in range(64)} == set(MOTIONS)
    for i in range(8):
        np.testing.assert_array_equal(train.whole(i)[0], again.whole(i)[0])
    assert any((train.whole(i)[0] != other.whole(i)[0]).any() for i in range(8))
    assert train.whole(3)[0].max() < 100
    assert MovingCIFAR("test").whole(3)[0].min() >= 150
    assert train.plain(13)[1] == 3


def test_a_frame_of_each_segment_is_shown() -> None:
    data = MovingCIFAR("train", frames=4)
    whole = torch.from_numpy(data.whole(0)[0])
    assert torch.equal(data.plain(0)[0], whole[[1, 3, 5, 7]])
    assert data.training(0)[0].shape == (4, 3, 32, 32)
    assert len(whole) == FRAMES


def test_an_unknown_motion_is_named() -> None:
    with pytest.raises(ValueError, match="motion='sideways': not one of right, left"):
        clip(BLACK, WHITE, "sideways", np.random.default_rng(0))
