"""Races of single operations: kernels with outputs given, and passes through autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import backends
from backends import Scaler
from backends.contract import SCALERS
from tests.backends.cases import no_cuda
from tests.benchmarks import peers
from tests.benchmarks.peers import Data
from tests.benchmarks.race import gpu_seconds, waited_for
from tests.benchmarks.report import ON_GPU

SIZES = {"1 k": 2**10, "16 k": 2**14, "256 k": 2**18, "1 M": 2**20, "4 M": 2**22, "16 M": 2**24, "64 M": 2**26}
ELEMENTS_MOVED = {"forward": 2, "backward": 3, "forward, backward": 5}
"""Numbers read and written for each element: the least that the operation needs."""


def traffic(x: torch.Tensor, operation: str) -> dict[str, int]:
    size = x.numel() * x.element_size()
    return {"elements": x.numel(), "bytes_copied": 2 * size, "bytes_moved": ELEMENTS_MOVED[operation] * size}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("operation", ["forward", "backward", "forward, backward"])
def test_outputs_given(race: Callable, operation: str, size: str) -> None:
    data = Data.normal(SIZES[size])
    contenders = peers.given(data)[operation]
    race(f"{operation}, out given", f"{size} float32", contenders, **traffic(data.x, operation))


@pytest.mark.parametrize("operation", ["forward", "backward"])
def test_bfloat16(race: Callable, operation: str) -> None:
    data = Data.normal(SIZES["16 M"], dtype=torch.bfloat16)
    race(f"{operation}, out given", "16 M bfloat16", peers.given(data)[operation], **traffic(data.x, operation))


@no_cuda
@pytest.mark.parametrize("values", ["", " of a ReLU"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operation", ["forward", "backward"])
def test_on_a_gpu(race: Callable, operation: str, dtype: torch.dtype, values: str) -> None:
    data = Data.normal(SIZES["64 M"], dtype=dtype, device="cuda")
    if values:
        data.x.relu_()  # zeros, which a division may be slow at
    name = f"64 M {str(dtype).removeprefix('torch.')}{values}{ON_GPU}"
    race_on_gpu(race, f"{operation}, out given", name, peers.given(data)[operation], traffic(data.x, operation))


@no_cuda
@pytest.mark.parametrize("size", ["256 k", "1 M", "4 M", "16 M"])
@pytest.mark.parametrize("operation", ["forward", "backward"])
def test_sizes_on_a_gpu(race: Callable, operation: str, size: str) -> None:
    data = Data.normal(SIZES[size], device="cuda")
    contenders = peers.given(data)[operation]
    race_on_gpu(race, f"{operation}, out given", f"{size} float32{ON_GPU}", contenders, traffic(data.x, operation))


@no_cuda
@pytest.mark.parametrize("size", ["1 k", "64 M"])
@pytest.mark.parametrize("kind", ["static", "learned"])
def test_autograd_on_a_gpu(race: Callable, kind: str, size: str) -> None:
    """As a training step waits for it: at 1 k elements, for Python."""
    data = Data.normal(SIZES[size], device="cuda")
    contenders = waited_for(getattr(peers, kind)(data))
    race(f"autograd, {kind}", f"{size} float32{ON_GPU}", contenders, **traffic(data.x, "forward, backward"))


def race_on_gpu(
    race: Callable, operation: str, name: str, contenders: dict, moved: dict[str, int], base: str = "fused"
) -> None:
    """On its own clock, of which each sample is a median already: in as few rounds as there may be."""
    race(operation, name, contenders, base=base, clock=gpu_seconds, seconds=0, **moved)


@no_cuda
def test_scalers_on_a_gpu(race: Callable) -> None:
    data = Data.normal(SIZES["64 M"], device="cuda")
    contenders = by_scaler(data)
    moved = traffic(data.x, "backward")
    race_on_gpu(race, "backward by scaler", f"64 M float32{ON_GPU}", contenders, moved, base="ewgs")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["static", "learned"])
def test_autograd(race: Callable, kind: str, size: str) -> None:
    data = Data.normal(SIZES[size])
    contenders = getattr(peers, kind)(data)
    race(f"autograd, {kind}", f"{size} float32", contenders, **traffic(data.x, "forward, backward"))


CHANNELS_LAST = {"memory_format": torch.channels_last}
LAYERS = {
    "conv weight 64x64x3x3": ((64, 64, 3, 3), {"axis": 0}),
    "conv weight 512x512x3x3": ((512, 512, 3, 3), {"axis": 0}),
    "Lite0 activation 64x32x32x32, channels-last": ((64, 32, 32, 32), CHANNELS_LAST),
    "Lite0 activation 64x96x32x32, channels-last": ((64, 96, 32, 32), CHANNELS_LAST),
}
"""Weights per output channel; activations per tensor."""


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", ["static", "learned"])
def test_layers(race: Callable, kind: str, name: str) -> None:
    shape, options = LAYERS[name]
    data = Data.normal(*shape, **options)
    race(f"autograd, {kind}", name, getattr(peers, kind)(data), **traffic(data.x, "forward, backward"))


def test_scalers(race: Callable) -> None:
    data = Data.normal(SIZES["16 M"])
    contenders = by_scaler(data)
    race("backward by scaler", "16 M float32", contenders, base="ewgs", **traffic(data.x, "backward"))


def by_scaler(data: Data) -> dict[str, Callable[[], object]]:
    fused, dx = backends.get("fused", data.x.device), torch.empty_like(data.x)

    def by(scaler: Scaler) -> Callable[[], object]:
        return lambda: fused.backward(data.g, data.x, *data.parameters, scaler=scaler, out=dx)

    contenders = {name: by(Scaler(name)) for name in SCALERS}
    return contenders | {"copy": lambda: dx.copy_(data.x)}
