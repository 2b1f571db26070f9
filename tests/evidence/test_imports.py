"""Evidence and published numbers stand on their own, and importing them is quick."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = (
    "repro.published.reader",
    "repro.published.tables",
    "repro.evidence.canonical",
    "repro.evidence.claims",
    "repro.evidence.collection",
    "repro.evidence.files",
    "repro.evidence.intervals",
    "repro.evidence.preregistration",
    "repro.evidence.records",
    "repro.evidence.render",
)


ALONE = """
import os, sys
from importlib import import_module
before = set(sys.modules)
for module in sys.argv[1:]:
    if os.fork() == 0:
        import_module(module)
        print(module, *sorted(set(sys.modules) - before), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def loaded_by() -> dict[str, list[str]]:
    """What each module loads, imported in a fresh process of its own."""
    command = [sys.executable, "-c", ALONE, *MODULES]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {module: loaded for module, *loaded in map(str.split, said)}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_else_of_the_suite_and_no_heavy_package_is_imported(
    module: str, loaded_by: dict[str, list[str]]
) -> None:
    """No torch and no pandas ever; numpy, scipy and matplotlib only by the functions that compute or draw."""
    loaded = loaded_by[module]
    assert module in loaded
    assert not {"torch", "pandas", "numpy", "scipy", "matplotlib", "backends"} & {name.split(".")[0] for name in loaded}
    own = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("repro")}
    assert own <= {"repro", "repro.evidence", "repro.published"}
    if module.startswith("repro.published"):
        assert "repro.evidence" not in own


def test_computing_and_drawing_needs_neither_torch_nor_pandas() -> None:
    code = """
import io, sys
from matplotlib.figure import Figure
from repro.evidence import intervals, records, render
intervals.t_interval([1.0, 2.0]); intervals.simultaneous([[1.0], [2.0]]); intervals.dunnett([[1.0, 2.0]], [3.0, 5.0])
records.unpack("5:mA==")
with render.style():
    Figure().savefig(io.BytesIO())
print(*sys.modules)
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pandas"} & {name.split(".")[0] for name in loaded}
