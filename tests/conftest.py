"""Fixtures shared by all tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FAKES = Path(__file__).parent / "fakes"

collect_ignore = ["fakes"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes on one thread, as in a worker."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
