"""ImageNet: `imagenet/{train,val}/<class>/*.JPEG` under the data root, put there by hand; its terms forbid fetching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from repro.datasets import files
from repro.errors import ReproError

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.transforms import v2

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = get_args(Split)
FOLDER = "imagenet"
CLASSES = 1000
REMEDY = (
    f"put ILSVRC 2012 there as {{train,val}}/<class>/*.JPEG, or name the folder that holds {FOLDER} by --data-root or "
    "REPRO_DATA"
)


class ImageNet:
    """One split: item i is (uint8 (3, size, size), class), read and cut when asked for, in the order of file names.

    Args:
        size: pixels of a side.
        classes: number of class folders that must be there.
        view: what `training_view` is told beside the size.

    Raises `ReproError` with what to do where the folder is absent or has another number of classes, and, naming the
    file, where one cannot be decoded.
    """

    def __init__(
        self,
        split: Split,
        size: int = 224,
        classes: int = CLASSES,
        data_root: Path | str | None = None,
        **view: float,
    ) -> None:
        from torchvision.datasets import ImageFolder

        from repro.datasets.views import central_view, training_view

        self._training_view, self._central_view = training_view(size, **view), central_view(size)
        folder = _found(split, classes, data_root)
        try:
            self.files = ImageFolder(str(folder)).samples
        except FileNotFoundError as error:
            raise ReproError(f"{folder}: a class has no image; {REMEDY}") from error

    def __len__(self) -> int:
        return len(self.files)

    def training(self, index: int) -> tuple[Tensor, int]:
        """Item `index` as `training_view` cuts it: draws from torch's global generator."""
        return self._cut(index, self._training_view)

    def plain(self, index: int) -> tuple[Tensor, int]:
        """Item `index` as `central_view` cuts it."""
        return self._cut(index, self._central_view)

    def _cut(self, index: int, view: v2.Transform) -> tuple[Tensor, int]:
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        path, label = self.files[index]
        try:
            with Image.open(path) as image:
                return pil_to_tensor(view(image.convert("RGB"))), label
        except OSError as error:
            raise ReproError(f"{path} cannot be decoded: replace it by the original file") from error


def find(data_root: Path | str | None = None, report: files.Report = files.quiet, classes: int = CLASSES) -> Path:
    """The folder with both splits, each of `classes` class folders. Raises `ReproError` with what to do."""
    train, _ = (_found(split, classes, data_root) for split in SPLITS)
    return train.parent


def _found(split: str, classes: int, data_root: Path | str | None) -> Path:
    folder = files.root(data_root) / FOLDER / split
    if not folder.is_dir():
        raise ReproError(f"ImageNet is not here: there is no folder {folder}; {REMEDY}")
    found = sum(path.is_dir() for path in folder.iterdir())
    if found != classes:
        raise ReproError(f"{folder} has {found} class folders, and not {classes}: complete it, or say --set classes=N")
    return folder
