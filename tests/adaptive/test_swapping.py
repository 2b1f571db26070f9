"""Block swapping: probabilities over time and depth, whose parts a forward pass touched, and where gradients go."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from repro.adaptive.experiment import quantized
from repro.adaptive.methods import METHODS
from repro.adaptive.settings import with_defaults
from repro.adaptive.swapping import draw, student_probabilities, swapped
from repro.networks.mobilenet import MobileNetV2
from repro.networks.quantize import set_bits
from repro.networks.resnet import ResNet18


class Swap(NamedTuple):
    """A block of a network, and the beginnings of the names of what is swapped with it and of some that is not."""

    network: str
    block: int
    own: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def which(self) -> list[bool]:
        return [index == self.block for index in range({"resnet18": 8, "mobilenetv2": 17}[self.network])]


SWAPS = (
    Swap(
        "resnet18",
        3,
        ("blocks.2.act2.", *(f"blocks.3.{part}" for part in ("conv", "bn", "act1."))),
        ("blocks.2.conv1.weight", "blocks.4.conv1.weight", "conv1.weight", "fc.weight"),
    ),
    Swap(
        "resnet18", 0, ("bn1.", "act1.", *(f"blocks.0.{part}" for part in ("conv", "bn", "act1."))), ("conv1.weight",)
    ),
    Swap("mobilenetv2", 3, ("features.4.",), ("features.3.conv.2.weight", "features.5.conv.0.0.weight")),
    Swap("mobilenetv2", 0, ("features.0.1.", "features.0.2.", "features.1."), ("features.0.0.weight",)),
)


@pytest.fixture(params=SWAPS, ids=lambda swap: f"{swap.network}, block {swap.block}")
def swap(request: pytest.FixtureRequest) -> Swap:
    return request.param


@pytest.fixture
def network(swap: Swap) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ResNet18(width=2, stem_stride=2) if swap.network == "resnet18" else MobileNetV2(0.1, stem_stride=2)
        return quantized(made, METHODS["coquant"].recipe, with_defaults()).train()


IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("progress", "by_depth", "expected"),
    [
        (0.0, True, [0.1, 0.325, 0.55, 0.775]),  # 1 - .9 (4 - l) / 4
        (0.5, True, [0.55, 0.6625, 0.775, 0.8875]),
        (1.0, True, [1.0, 1.0, 1.0, 1.0]),
        (0.0, False, [0.1] * 4),
        (0.5, False, [0.55] * 4),
    ],
)
def test_probability_of_the_student_over_time_and_depth(progress: float, by_depth: bool, expected: list) -> None:
    assert student_probabilities(progress, 4, 0.1, by_depth) == pytest.approx(expected)


def test_the_end_of_the_rise_is_a_setting() -> None:
    assert student_probabilities(0.5, 2, 0.5, by_depth=False, end=0.9) == pytest.approx([0.7] * 2)


def test_blocks_are_swapped_with_probability_one_minus_p() -> None:
    draws = np.array([draw([0.0, 0.25, 1.0], np.random.default_rng(i)) for i in range(2000)])
    np.testing.assert_allclose(draws.mean(0), [1.0, 0.75, 0.0], atol=0.03)


def touched(network: nn.Module) -> Iterator[str]:
    """Batch norms and clip levels that ran in a forward pass, by name."""
    names: list[str] = []
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: names.append(name))
        for name, module in network.named_modules()
        if ".norms." in name or ".levels." in name
    ]
    network(IMAGES)
    for hook in hooks:
        hook.remove()
    return iter(names)


def test_a_swapped_block_runs_with_the_teachers_norms_and_clip_levels(network: nn.Module, swap: Swap) -> None:
    set_bits(network, 2)
    with swapped(network.swappable(), swap.which, student=2, teacher=6):
        names = list(touched(network))
    inside = {name.rpartition(".")[2] for name in names if name.startswith(swap.own)}
    outside = {name.rpartition(".")[2] for name in names if not name.startswith(swap.own)}
    assert (inside, outside) == ({"6"}, {"2"})
    assert {name.rpartition(".")[2] for name in touched(network)} == {"2"}  # all the student's again


def test_running_statistics_of_the_teacher_are_left_alone(network: nn.Module, swap: Swap) -> None:
    set_bits(network, 2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with swapped(network.swappable(), swap.which, student=2, teacher=6):
        network(IMAGES)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(before[key], value)}
    moved = {key for key in changed if key.endswith(("running_mean", "running_var"))}
    assert moved
    assert not any(key.startswith(swap.own) for key in moved)
    assert all(".norms.2." in key for key in moved)
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def _bits_of(name: str) -> str:
    """The bit-width whose batch norm or clip level a parameter is of; empty for a weight, which all share."""
    found = re.search(r"\.(?:norms|levels)\.(\d)\.", name)
    return found[1] if found else ""


@pytest.mark.parametrize("trains_teacher", [False, True])
def test_gradients_reach_the_students_blocks_and_the_swapped_ones_as_configured(
    network: nn.Module, swap: Swap, trains_teacher: bool
) -> None:
    set_bits(network, 2)
    with swapped(network.swappable(), swap.which, 2, 6, trains_teacher=trains_teacher):
        output = network(IMAGES)
    output.square().sum().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None}
    inside = {name for name in reached if name.startswith(swap.own)}
    assert {_bits_of(name) for name in reached - inside} == {"", "2"}
    assert set(swap.others) <= reached - inside
    assert {_bits_of(name) for name in inside} == ({"", "6"} if trains_teacher else set())
    assert all(any(name.startswith(part) for name in inside) for part in swap.own) or not trains_teacher
    assert all(p.requires_grad for p in network.parameters())


def test_an_error_inside_leaves_the_network_as_it_was(network: nn.Module) -> None:
    set_bits(network, 2)
    with pytest.raises(ZeroDivisionError), swapped(network.swappable(), [True] * len(network.swappable()), 2, 6):
        raise ZeroDivisionError
    assert {name.rpartition(".")[2] for name in touched(network)} == {"2"}
    assert all(p.requires_grad for p in network.parameters())
