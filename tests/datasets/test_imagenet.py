"""ImageNet in its real layout, made small: what is read, how it is cut, and what is said where it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from repro import datasets
from repro.datasets import imagenet
from repro.datasets.imagenet import ImageNet
from repro.errors import ReproError
from repro.training.streams import torch_seeded
from tests.datasets import made_up


def test_items_are_photographs_with_the_number_of_their_folder(tmp_path: Path) -> None:
    data = ImageNet("train", size=32, classes=3, data_root=made_up.imagenet(tmp_path))
    assert len(data) == 12
    assert [data.plain(i)[1] for i in (0, 4, 11)] == [0, 1, 2]
    image, _ = data.plain(11)
    assert (image.dtype, image.shape) == (torch.uint8, (3, 32, 32))
    assert image.float().mean() > 200 > 60 > data.plain(0)[0].float().mean()


def test_training_views_are_drawn_and_the_test_view_is_fixed(tmp_path: Path) -> None:
    data = ImageNet("val", size=32, classes=3, data_root=made_up.imagenet(tmp_path))
    views = []
    for step in (0, 1, 0):
        with torch_seeded(0, "augmentation", step):
            views.append(data.training(0)[0])
    assert views[0].shape == (3, 32, 32)
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])
    assert torch.equal(data.plain(0)[0], data.plain(0)[0])


def test_the_test_view_is_the_centre_of_256_in_224(tmp_path: Path) -> None:
    """On a picture whose shorter side is 256 nothing is resized: the view is a window of it."""
    from torchvision.transforms.v2.functional import to_image

    from repro.datasets.views import central_view

    picture = torch.randint(0, 256, (3, 256, 300), dtype=torch.uint8)
    assert torch.equal(central_view(224)(to_image(picture)), picture[:, 16:240, 38:262])


def test_absent_or_incomplete_it_says_in_a_line_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match=r"ImageNet is not here: there is no folder .*train; put ILSVRC 2012 there"):
        datasets.fetch("imagenet", tmp_path)
    made_up.imagenet(tmp_path)
    with pytest.raises(ReproError, match=r"train has 3 class folders, and not 1000: complete it"):
        datasets.fetch("imagenet", tmp_path)
    assert imagenet.find(tmp_path, classes=3) == tmp_path / "imagenet"
    for path in (tmp_path / "imagenet/val/n00000001").iterdir():
        path.unlink()
    with pytest.raises(ReproError, match=r"val: a class has no image; put ILSVRC"):
        ImageNet("val", classes=3, data_root=tmp_path)


def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    data = ImageNet("val", size=32, classes=3, data_root=made_up.imagenet(tmp_path))
    Path(data.files[1][0]).write_bytes(b"no picture")
    with pytest.raises(ReproError, match=r"1\.JPEG cannot be decoded: replace it"):
        data.plain(1)
