"""What Tables 1-4 are about: a network and the data that it classifies, each with the settings that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repro.targets import Context

if TYPE_CHECKING:
    from torch import nn

    from repro.training.batches import AnyBatches
    from repro.training.loader import Items

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """A float network that the methods can quantize.

    Attributes:
        settings: names of those that it is built by.
        build: the network for settings and a number of classes, initialised by torch's global generator. It offers
            `swappable()` and `layers()`, and names in `full_precision` the modules that stay float, its `ends` among
            them: see `repro.networks.resnet.ResNet18`.
    """

    settings: tuple[str, ...]
    build: Callable[[Settings, int], nn.Module]


@dataclass(frozen=True)
class Data:
    """What a network is trained and tested on.

    Attributes:
        settings: names of those that say which of it is used.
        needs: data sets (`python -m repro data NAME`) that are read.
        classes: their number; where they have a setting `classes`, that counts.
        open: batches for training and for testing.
    """

    settings: tuple[str, ...]
    needs: tuple[str, ...]
    classes: int
    open: Callable[[Settings, Context], tuple[AnyBatches, AnyBatches]]
    by_hand: str = ""
    """Why results are missing: whose hand has to put the data there. Empty where they are fetched."""


@dataclass(frozen=True)
class Problem:
    """A network and its data."""

    network: Network
    data: Data

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings that this network and these data depend on; those of others do not appear in its units."""
        return (*self.network.settings, *self.data.settings)

    def classes(self, settings: Settings) -> int:
        """Number of classes that the network tells apart."""
        return settings["classes"] if "classes" in self.data.settings else self.data.classes

    def expected(self, settings: Settings) -> dict[str, dict[str, int]]:
        """For each data set that is read what `repro.datasets.fetch` is told to expect of it."""
        known = {"classes": settings["classes"]} if "classes" in self.data.settings else {}
        return dict.fromkeys(self.data.needs, known)


@dataclass(frozen=True)
class StandIn:
    """A problem that proves a pipeline in the place of one whose data are not here: no evidence for the print."""

    problem: Problem
    words: str


def _resnet18(settings: Settings, classes: int) -> nn.Module:
    from repro.networks.resnet import ResNet18

    width, stride = settings["width"], settings["stem_stride"]
    return ResNet18(width, stride, classes, float_identity=_float_identity(settings))


def _imagenet_resnet18(settings: Settings, classes: int) -> nn.Module:
    from repro.networks.resnet import ResNet18

    width, stride = settings["width"], settings["stem_stride"]
    return ResNet18(width, stride, classes, "imagenet", _float_identity(settings))


def _frame_averaged_resnet18(settings: Settings, classes: int) -> nn.Module:
    from repro.networks.resnet import FrameAveragedResNet18

    width, stride = settings["width"], settings["stem_stride"]
    return FrameAveragedResNet18(width, stride, classes, "imagenet", _float_identity(settings))


def _mobilenetv2(settings: Settings, classes: int) -> nn.Module:
    from repro.networks.mobilenet import MobileNetV2

    width, stride = settings["width_multiplier"], settings["stem_stride"]
    return MobileNetV2(width, stride, classes, _float_identity(settings))


def _float_identity(settings: Settings) -> bool:
    return settings["identity"] == "float"


def _cifar10(settings: Settings, context: Context) -> tuple[AnyBatches, AnyBatches]:
    from repro.datasets import cifar10
    from repro.training.batches import Batches
    from repro.training.distributed import part

    train, test = (cifar10.load(split, context.data_root) for split in ("train", "test"))
    n, m = settings["train_images"], settings["test_images"]
    return (
        Batches(train.images[:n], train.labels[:n], settings["batch"], context.device, part=part(), **_view(settings)),
        Batches(test.images[:m], test.labels[:m], TEST_BATCH, context.device, part=part()),
    )


def _view(settings: Settings) -> dict[str, Any]:
    """How training images are augmented, as `Batches` takes it."""
    return {"padding": settings["crop_padding"], "flip": settings["flip"]}


def _photographic_view(settings: Settings) -> dict[str, float]:
    """The same, as data sets of photographs and frames take it."""
    return {"smallest": settings["crop_area"], "flip": settings["flip"]}


def _moving_cifar(settings: Settings, context: Context) -> tuple[AnyBatches, AnyBatches]:
    from repro.datasets.moving_cifar import MovingCIFAR
    from repro.training.batches import CIFAR10_MEAN, CIFAR10_STD

    frames, root, flip = settings["frames"], context.data_root, settings["flip"]
    train, test = (MovingCIFAR(split, frames, data_root=root, flip=flip) for split in ("train", "test"))
    limits = settings["train_images"], settings["test_images"]
    return _loaded(train, test, settings, context, CIFAR10_MEAN, CIFAR10_STD, limits)


def _imagenet(settings: Settings, context: Context) -> tuple[AnyBatches, AnyBatches]:
    from repro.datasets.imagenet import ImageNet
    from repro.datasets.views import IMAGENET_MEAN, IMAGENET_STD

    size, classes, view = settings["image_size"], settings["classes"], _photographic_view(settings)
    train, test = (ImageNet(split, size, classes, context.data_root, **view) for split in ("train", "val"))
    return _loaded(train, test, settings, context, IMAGENET_MEAN, IMAGENET_STD)


def _mini_kinetics(settings: Settings, context: Context) -> tuple[AnyBatches, AnyBatches]:
    from repro.datasets.mini_kinetics import MiniKinetics
    from repro.datasets.views import IMAGENET_MEAN, IMAGENET_STD

    frames, size, classes = settings["frames"], settings["image_size"], settings["classes"]
    view = _photographic_view(settings)
    train, test = (MiniKinetics(split, frames, size, classes, context.data_root, **view) for split in ("train", "val"))
    return _loaded(train, test, settings, context, IMAGENET_MEAN, IMAGENET_STD)


def _loaded(
    train: Items,
    test: Items,
    settings: Settings,
    context: Context,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    limits: tuple[int | None, int | None] = (None, None),
) -> tuple[AnyBatches, AnyBatches]:
    from repro.training.distributed import part
    from repro.training.loader import LoadedBatches

    first, second = (
        LoadedBatches(items, settings["batch"], context.device, mean, std, limit, part())
        for items, limit in zip((train, test), limits, strict=True)
    )
    return first, second


def _cifar10_held_out(settings: Settings, context: Context) -> tuple[AnyBatches, AnyBatches]:
    """Training images without those held out for validation; tested on these or on the test set."""
    from repro.datasets import cifar10
    from repro.training.batches import Batches

    train = cifar10.load("train", context.data_root)
    kept, out = cifar10.held_out(train.labels)
    kept = kept[: settings["train_images"]]
    images, labels = train.images[kept], train.labels[kept]
    tested = (train.images[out], train.labels[out])
    if not settings["validation"]:
        test = cifar10.load("test", context.data_root)
        tested = (test.images, test.labels)
    m = settings["test_images"]
    return (
        Batches(images, labels, settings["batch"], context.device, **_view(settings)),
        Batches(tested[0][:m], tested[1][:m], TEST_BATCH, context.device),
    )


TEST_BATCH = 500
RESNET18 = Network(("width", "stem_stride"), _resnet18)
MOBILENETV2 = Network(("width_multiplier", "stem_stride"), _mobilenetv2)
IMAGENET_RESNET18 = Network(("width", "stem_stride"), _imagenet_resnet18)
FRAME_AVERAGED_RESNET18 = Network(("width", "stem_stride"), _frame_averaged_resnet18)
AUGMENTED = ("crop_padding", "flip")
PHOTOGRAPHS = ("image_size", "classes", "crop_area", "flip")
CIFAR10 = Data(("train_images", "test_images", *AUGMENTED), ("cifar10",), 10, _cifar10)
HELD_OUT_CIFAR10 = Data(("train_images", "test_images", *AUGMENTED, "validation"), ("cifar10",), 10, _cifar10_held_out)
MOVING_CIFAR = Data(("train_images", "test_images", "frames", "flip"), ("cifar10",), 10, _moving_cifar)
IMAGENET = Data(PHOTOGRAPHS, ("imagenet",), 1000, _imagenet, by_hand="ImageNet, to be put under the data root by hand")
MINI_KINETICS = Data(
    (*PHOTOGRAPHS, "frames"),
    ("mini_kinetics",),
    200,
    _mini_kinetics,
    by_hand="Mini-Kinetics, to be put under the data root by hand",
)
