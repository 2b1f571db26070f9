"""Races of whole training steps, with their memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch._inductor.compile_fx import compile_fx

from tests.backends.cases import no_cuda
from tests.benchmarks import networks
from tests.benchmarks.networks import training_step
from tests.benchmarks.race import waited_for
from tests.benchmarks.report import ON_GPU

PEAKS = """
import json
from tests.benchmarks import networks, race

steps = networks.{steps}()
print(json.dumps({{name: (step(), race.peak_mib(step))[1] for name, step in steps.items()}}))
"""


def peaks(steps: str) -> dict[str, float | None]:
    """Peaks of the memory in use, in MiB, of the contenders that this function of `networks` makes.

    In a process of its own, in which glibc maps large blocks one by one: what a heap keeps of freed ones is left out.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": f"{2**16}"}
    command = [sys.executable, "-c", PEAKS.format(steps=steps)]
    return json.loads(subprocess.check_output(command, env=environment, cwd=Path(__file__).parents[2]))


def test_lite0(race: Callable) -> None:
    steps, used = networks.lite0_steps(), peaks("lite0_steps")
    race("training step", "Lite0 64 px, batch 64", steps, base="fp32", peaks=used, seconds=45)


def test_resnet18(race: Callable) -> None:
    steps, used = networks.resnet18_steps(), peaks("resnet18_steps")
    race("training step", "ResNet18-CIFAR, batch 64", steps, base="fp32", peaks=used, seconds=30)


@no_cuda
def test_resnet18_on_a_gpu(race: Callable) -> None:
    steps = waited_for(networks.resnet18_steps(512, "cuda"))
    race("training step", f"ResNet18-CIFAR, batch 512{ON_GPU}", steps, base="fp32")


def test_compiled(race: Callable) -> None:
    """Inductor fuses the eager operations with their neighbours, and the operator with none."""

    def compiled(backend: str) -> Callable[[], float]:
        network = networks.resnet18(True, width=16)
        networks.set_bits(network, networks.SINGLE_BITS)
        # A function of its own for each network: with one and the same, the second would get the first one's graph.
        own = torch.compile(network, backend=lambda graph, inputs: compile_fx(graph, inputs))
        return training_step(own, 64, 32, backend=backend)

    torch._dynamo.reset()
    contenders = {
        "eager calls, fused": training_step(networks.resnet18(True, 16), 64, 32, (networks.SINGLE_BITS,), "fused"),
        "operator": compiled("fused"),
        "traced": compiled("eager"),
    }
    race("compiled training step", "ResNet18 width 16, batch 64", contenders, base="traced", seconds=20)
