"""Depthwise convolutions on small maps: the same as the library's, forward and backward, and really used."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from repro.networks import depthwise
from repro.networks.depthwise import QuickConv2d, quicken
from repro.networks.lite import lite_small
from repro.networks.quantize import QuantizedConv2d


def pair(size: int) -> tuple[nn.Conv2d, QuickConv2d]:
    conv = nn.Conv2d(6, 6, size, padding=size // 2, groups=6, bias=False, dtype=torch.float64)
    return conv, QuickConv2d(copy.deepcopy(conv))


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        *((3, shape) for shape in ((1, 1), (2, 2), (1, 3), (3, 2))),
        *((size, shape) for size in (5, 7) for shape in ((1, 1), (2, 2), (1, 3), (3, 2), (4, 4), (4, 9))),
    ],
    ids=str,
)
def test_values_and_gradients_are_the_librarys(size: int, shape: tuple[int, int]) -> None:
    conv, ours = pair(size)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, *shape, generator=generator, dtype=torch.float64).to(memory_format=torch.channels_last)
    grad = torch.randn(3, 6, *shape, generator=generator, dtype=torch.float64)
    one, other = (x.clone().requires_grad_() for _ in range(2))
    y, ours_y = conv(one), ours(other)
    assert "_SmallMap" in type(ours_y.grad_fn).__name__
    y.backward(grad)
    ours_y.backward(grad)
    assert torch.allclose(ours_y, y, rtol=0, atol=1e-12)
    assert torch.allclose(other.grad, one.grad, rtol=0, atol=1e-12)  # type: ignore[arg-type]
    assert torch.allclose(ours.weight.grad, conv.weight.grad, rtol=0, atol=1e-12)  # type: ignore[arg-type]


def test_only_maps_below_the_kernel_take_the_way_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []
    own = depthwise._SmallMap.apply
    monkeypatch.setattr(depthwise._SmallMap, "apply", lambda x, w: taken.append(tuple(x.shape)) or own(x, w))
    _, ours = pair(3)
    for shape in ((2, 2), (3, 2), (2, 5), (3, 3), (4, 4)):
        ours(torch.zeros(1, 6, *shape, dtype=torch.float64))
    assert taken == [(1, 6, 2, 2), (1, 6, 3, 2), (1, 6, 2, 5)]


def test_a_quantized_convolution_is_quick_too() -> None:
    conv, _ = pair(3)
    quantized = QuantizedConv2d(conv, nn.Identity())
    x = torch.randn(2, 6, 2, 2, dtype=torch.float64)
    assert "_SmallMap" in type(quantized(x).grad_fn).__name__
    assert torch.allclose(quantized(x), conv(x))


def test_a_network_keeps_its_names_and_its_function() -> None:
    torch.manual_seed(0)
    plain = lite_small()
    quick = quicken(copy.deepcopy(plain))
    assert list(quick.state_dict()) == list(plain.state_dict())
    assert sum(isinstance(module, QuickConv2d) for module in quick.modules()) == 2  # the others have stride 2
    x = torch.randn(4, 3, 32, 32)
    losses = [(net(x) ** 2).sum() for net in (plain, quick)]
    for loss in losses:
        loss.backward()
    assert torch.allclose(*losses, rtol=1e-5)
    for mine, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, 1, 1, groups=4),
        nn.Conv2d(4, 8, 3, 1, 1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, 1, 0, groups=4, bias=False),
        nn.Conv2d(4, 4, (1, 3), 1, (0, 1), groups=4, bias=False),
        nn.Conv2d(4, 4, 3, 1, 2, dilation=2, groups=4, bias=False),
    ],
)
def test_others_stay_as_they_are(conv: nn.Conv2d) -> None:
    assert quicken(nn.Sequential(conv))[0] is conv
