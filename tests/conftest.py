"""Fixtures shared by all tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from hypothesis import settings

FAKES = Path(__file__).parent / "fakes"

collect_ignore = ["fakes"]

# No property fails by the clock, and all are tried on the same examples on every run.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Within, torch computes on so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _one_thread_each() -> Iterator[None]:
    """Where pytest runs several processes side by side, torch takes one core in each."""
    side_by_side = "PYTEST_XDIST_WORKER" in os.environ and "torch" in sys.modules
    with torch_threads(1) if side_by_side else nullcontext():
        yield


@pytest.fixture(scope="session", autouse=True)
def _nobody_waits_for_the_disk() -> Iterator[None]:
    """`os.fsync` forces nothing: what tests kill is processes, never the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes on one thread, as in a worker."""
    with torch_threads(1):
        yield


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch computes on two threads."""
    with torch_threads(2):
        yield


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have few pixels, and are drawn sooner."""
    from repro.evidence import render

    monkeypatch.setitem(render.STYLE, "savefig.dpi", 40)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package in `tests/fakes` is installed, with the target `counting`."""
    monkeypatch.syspath_prepend(FAKES)


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `python -m repro ARGUMENTS` as a shell would, in an empty folder, with the fake target installed."""

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "repro", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(FAKES)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )

    return start


def _hear_interrupts() -> None:
    """Ctrl-C works in the command as at a prompt, also where the tests themselves run deaf to it, in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
