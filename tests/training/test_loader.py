"""Batches of items read one by one: what decides them, and that neither worker processes nor parts change them."""

import pytest
import torch

from repro.training.loader import LoadedBatches

N = 23


class Numbers:
    """Item i is a picture of the number i, plus noise in training; its class is i."""

    def __len__(self) -> int:
        return N

    def training(self, index: int) -> tuple[torch.Tensor, int]:
        return self.plain(index)[0] + torch.randint(0, 50, (3, 2, 2), dtype=torch.uint8), index

    def plain(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, 2, 2), index, dtype=torch.uint8), index


def batches(**options: object) -> LoadedBatches:
    return LoadedBatches(Numbers(), batch=4, **{"workers": 0, **options})


def drawn(some: LoadedBatches, **key: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(some.training(**{"seed": 3, "epoch": 1, **key}))


def assert_equal(
    some: list[tuple[torch.Tensor, torch.Tensor]], others: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    assert len(some) == len(others)
    for (x, y), (x2, y2) in zip(some, others, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_an_epoch_shows_each_item_at_most_once_in_an_order_of_its_own() -> None:
    first, second = (torch.cat([y for _, y in drawn(batches(), epoch=epoch)]) for epoch in (0, 1))
    assert len(batches()) == 5  # the incomplete last batch is dropped
    assert len(first.unique()) == len(second.unique()) == 20
    assert not torch.equal(first, second)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_resumed_in_the_middle_is_the_same_epoch(workers: int) -> None:
    """The same pixels too: noise is drawn by item and epoch, whoever reads it."""
    assert_equal(drawn(batches())[3:], drawn(batches(workers=workers), first=3))


def test_augmentation_differs_by_epoch_and_seed_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, epoch, seed = ({int(n): image for x, y in drawn(batches(), **key) for image, n in zip(x, y, strict=True)}
                          for key in ({}, {"epoch": 2}, {"seed": 4}))  # fmt: skip
    assert torch.equal(before, torch.random.get_rng_state())
    for other in (epoch, seed):
        assert not any(torch.equal(first[n], other[n]) for n in first.keys() & other.keys())


def test_parts_make_up_the_batch() -> None:
    halves = [drawn(batches(part=(number, 2))) for number in (0, 1)]
    assert_equal(
        drawn(batches()), [(torch.cat([x, u]), torch.cat([y, v])) for (x, y), (u, v) in zip(*halves, strict=True)]
    )
    labels = [torch.cat([y for _, y in batches(part=(number, 2)).plain()]) for number in (0, 1)]
    assert torch.equal(torch.cat(labels), torch.cat([y for _, y in batches().plain()]))


def test_the_first_items_are_a_sample_and_not_one_class() -> None:
    """A folder of classes is sorted; the first few of the fixed order are spread over it, and always the same."""
    few = batches(limit=6)
    labels = torch.cat([y for _, y in few.plain()])
    assert few.size == len(labels) == 6
    assert labels.max() > 10
    assert set(torch.cat([y for _, y in drawn(few)]).tolist()) <= set(labels.tolist())
    assert torch.equal(torch.cat([y for _, y in batches().plain(6)]), labels)


def test_items_are_normalised_by_channel() -> None:
    some = batches(mean=(0.0, 0.5, 0.0), std=(1.0, 1.0, 2.0))
    for x, y in some.plain():
        torch.testing.assert_close(x[:, :, 0, 0], torch.stack([y / 255, y / 255 - 0.5, y / 510], 1))
