"""What the first call in a process costs beside torch: importing the rest, compiling loops or finding them compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

CODE = """
import time
import torch

start = time.perf_counter()
from backends import Scaler
from backends.autograd import fake_quantize

x, step, upper = (torch.ones(n, requires_grad=True) for n in ((1000,), (), ()))
fake_quantize(x, step, 0.0, upper, scaler=Scaler("ewgs"), backend="fused").sum().backward()
print(time.perf_counter() - start)
"""


def test_first_use(race: Callable, tmp_path: Path) -> None:
    """A race of two dozen processes, half of which compile: minutes."""
    fresh = count()

    def seconds(cache: Path) -> float:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
        return float(subprocess.check_output([sys.executable, "-c", CODE], env=environment, text=True))

    contenders: dict[str, Callable[[], object]] = {
        "first process": lambda: seconds(tmp_path / f"{next(fresh)}"),
        "later process": lambda: seconds(tmp_path / "kept"),
    }
    race("first use", "forward and backward, ewgs", contenders, base="first process", clock=lambda run, calls: run())
