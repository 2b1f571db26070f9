"""What Tables 1-4 are about: a network and the data that it classifies, each with the settings that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repro.targets import Context

if TYPE_CHECKING:
    from torch import nn

    from repro.training.batches import AnyBatches

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """A float network that the methods can quantize.

    Attributes:
        settings: names of those that it is built by.
        build: the network for settings and a number of classes, initialised by torch's global generator. It offers
            `blocks` and `layers()`, and names in `full_precision` the modules that are never quantized: see
            `repro.networks.resnet.ResNet18`.
    """

    settings: tuple[str, ...]
    build: Callable[[Settings, int], nn.Module]


@dataclass(frozen=True)
class Data:
    """What a network is trained and tested on.

    Attributes:
        settings: names of those that say which of it is used.
        needs: data sets (`python -m repro data NAME`) that are read.
        open: batches for training and for testing.
    """

    settings: tuple[str, ...]
    needs: tuple[str, ...]
    classes: int
    open: Callable[[Settings, Context], tuple[AnyBatches, AnyBatches]]


@dataclass(frozen=True)
class Problem:
    """A network and its data."""

    network: Network
    data: Data

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings that this network and these data depend on; those of others do not appear in its units."""
        return (*self.network.settings, *self.data.settings)


def _resnet18(settings: Settings, classes: int) -> nn.Module:
    from repro.networks.resnet import ResNet18

    return ResNet18(settings["width"], settings["stem_stride"], classes)


def _mobilenetv2(settings: Settings, classes: int) -> nn.Module:
    from repro.networks.mobilenet import MobileNetV2

    return MobileNetV2(settings["width_multiplier"], settings["stem_stride"], classes)


def _cifar10(settings: Settings, context: Context) -> tuple[AnyBatches, AnyBatches]:
    from repro.datasets import cifar10
    from repro.training.batches import Batches

    train, test = (cifar10.load(split, context.data_root) for split in ("train", "test"))
    n, m = settings["train_images"], settings["test_images"]
    return (
        Batches(train.images[:n], train.labels[:n], settings["batch"], context.device),
        Batches(test.images[:m], test.labels[:m], TEST_BATCH, context.device),
    )


TEST_BATCH = 500
RESNET18 = Network(("width", "stem_stride"), _resnet18)
MOBILENETV2 = Network(("width_multiplier", "stem_stride"), _mobilenetv2)
CIFAR10 = Data(("train_images", "test_images"), ("cifar10",), 10, _cifar10)
