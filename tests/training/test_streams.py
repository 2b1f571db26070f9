"""Streams and batches: what a key decides, and what it must not depend on."""

from dataclasses import replace

import numpy as np
import torch

from repro.training.batches import PADDING, Batches, crop_and_flip
from repro.training.streams import stream, torch_seeded


def batches(n: int = 64, batch: int = 10) -> Batches:
    rng = np.random.default_rng(0)
    return Batches(rng.integers(0, 256, (n, 3, 32, 32), np.uint8), np.arange(n), batch)


def test_streams_differ_by_each_part_of_the_key() -> None:
    draws = {
        stream(*key).integers(2**62) for key in [(0, "order", 0), (1, "order", 0), (0, "crop", 0), (0, "order", 1)]
    }
    assert len(draws) == 4


def test_an_epoch_resumed_in_the_middle_is_the_same_epoch() -> None:
    whole = list(batches().training(seed=3, epoch=1))
    rest = list(batches().training(seed=3, epoch=1, first=4))
    assert len(whole) == 6  # the incomplete last batch is dropped
    for (x, y), (x2, y2) in zip(whole[4:], rest, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_an_epoch_shows_each_image_at_most_once_in_an_order_of_its_own() -> None:
    first, second = (torch.cat([y for _, y in batches().training(0, epoch)]) for epoch in (0, 1))
    assert len(first.unique()) == 60
    assert not torch.equal(first, second)


def test_crops_are_windows_of_the_padded_image() -> None:
    image = np.arange(1, 32 * 32 + 1).reshape(1, 1, 32, 32)
    padded = np.pad(image[0, 0], PADDING)
    windows = {
        window.tobytes()
        for top in range(2 * PADDING + 1)
        for left in range(2 * PADDING + 1)
        for plain in [padded[top : top + 32, left : left + 32]]
        for window in (plain, plain[:, ::-1])
    }
    crops = crop_and_flip(np.repeat(image, 200, 0), np.random.default_rng(0))
    assert crops.shape == (200, 1, 32, 32)
    assert {crop[0].tobytes() for crop in crops} <= windows
    assert len({crop[0].tobytes() for crop in crops}) > 50


def test_without_padding_images_are_as_they_were_or_mirrored() -> None:
    images = batches().images
    for flip, expected in ((0.0, images), (1.0, images[..., ::-1])):
        np.testing.assert_array_equal(crop_and_flip(images, np.random.default_rng(0), padding=0, flip=flip), expected)


def test_how_images_are_augmented_leaves_their_order_alone() -> None:
    plain = replace(batches(), padding=0, flip=0.0)
    for (x, y), (x2, y2) in zip(batches().training(0, 0), plain.training(0, 0), strict=True):
        assert torch.equal(y, y2)
        assert not torch.equal(x, x2)
        (shown,) = replace(plain, images=plain.images[y2], labels=plain.labels[y2]).plain()
        assert torch.equal(x2, shown[0])


def test_plain_batches_keep_order_and_the_rest() -> None:
    parts = list(batches().plain(limit=25))
    assert [len(y) for _, y in parts] == [10, 10, 5]
    assert torch.cat([y for _, y in parts]).tolist() == list(range(25))


def test_normalisation_is_that_of_cifar10() -> None:
    black = Batches(np.zeros((1, 3, 2, 2), np.uint8), np.zeros(1), 1)
    ((x, _),) = black.plain()
    torch.testing.assert_close(x[0, :, 0, 0], -torch.tensor(black.mean) / torch.tensor(black.std))


def test_seeding_torch_leaves_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    with torch_seeded(0, "initialisation"):
        first = torch.rand(3)
    with torch_seeded(0, "initialisation"):
        second = torch.rand(3)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())
