"""How long a network with states of its own for every bit-width takes to switch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle

import pytest

from repro.adaptive.experiment import float_network, quantized
from repro.adaptive.methods import BITS, METHODS
from repro.adaptive.problems import CIFAR10, MOBILENETV2, RESNET18, Problem
from repro.adaptive.settings import with_defaults
from repro.networks.quantize import set_bits


@pytest.mark.parametrize(("problem", "label"), [(RESNET18, "ResNet18"), (MOBILENETV2, "MobileNetV2")])
def test_switching(race: Callable, problem: object, label: str) -> None:
    settings, widths = with_defaults(), cycle(BITS)
    networks = {
        name: quantized(float_network(Problem(problem, CIFAR10), settings, seed=0), METHODS[name].recipe, settings)
        for name in ("coquant", "bit_mixer")
    }

    def switch(name: str) -> None:
        set_bits(networks[name], next(widths))

    race("switching", label, {name: partial(switch, name) for name in networks}, base="coquant")
