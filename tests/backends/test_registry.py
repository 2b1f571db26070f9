"""Choosing a backend: by name, by environment variable, or automatically; never another than the one named."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

import backends
from backends import BackendUnavailableError, UnknownNameError


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)


@pytest.mark.parametrize("name", ["reference", "eager", "fused"])
def test_by_name(name: str) -> None:
    assert backends.get(name).__name__ == f"backends.{name}"


@pytest.mark.parametrize(
    ("device", "choice"),
    [(None, "eager"), ("cpu", "fused"), (torch.device("cpu"), "fused"), ("cuda:0", "fused"), ("mps", "eager")],
)
def test_automatic_choice(device: object, choice: str) -> None:
    """Fused where it has kernels and what they need (`triton` comes with torch on Linux); without a device, eager."""
    if str(device).startswith("cuda") and not find_spec("triton"):
        choice = "eager"
    assert backends.get(device=device).__name__ == f"backends.{choice}"


def test_automatic_choice_without_what_the_kernels_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.AUTOMATIC, "cpu", "no_such_package")
    assert backends.choose.__wrapped__(None, None, "cpu").__name__ == "backends.eager"


def test_environment_variable_decides_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    assert backends.get().__name__ == "backends.reference"
    assert backends.get("eager").__name__ == "backends.eager"
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "")
    assert backends.get().__name__ == "backends.eager"


def test_unknown_name_raises_with_the_known_and_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown backend 'egaer': known are reference, eager, .*'eager'\?"):
        backends.get("egaer")


def test_unknown_name_in_the_environment_variable_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "numpy")
    with pytest.raises(UnknownNameError, match=r"unknown backend in REPRO_BACKEND 'numpy': known are"):
        backends.get()


def test_a_named_backend_that_cannot_compute_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailableError, match="'reference' computes on the CPU, not on cuda:0"):
        backends.get("reference", torch.device("cuda:0"))
    with pytest.raises(BackendUnavailableError, match="'fused' has no kernels for mps: ask for 'eager'"):
        backends.get("fused", "mps")
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    with pytest.raises(BackendUnavailableError, match="'reference' computes on the CPU"):
        backends.get(device="cuda")


def test_fused_without_the_package_of_its_kernels_is_refused() -> None:
    """By name nothing else steps in; the message says what is missing."""
    script = (
        "import sys; sys.modules['numba'] = sys.modules['triton'] = None\n"
        "from backends import BackendUnavailableError, fused\n"
        "for device in ('cpu', 'cuda'):\n"
        "    try: fused.kernels(device)\n"
        "    except BackendUnavailableError as error: print(error)"
    )
    said = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert said.splitlines() == [
        f"backend 'fused' on {device} needs {package}, which is not installed: ask for 'eager'"
        for device, package in (("cpu", "numba"), ("cuda", "triton"))
    ]


def test_import_of_the_package_loads_no_backend_and_the_reference_no_torch() -> None:
    script = (
        "import sys, backends, backends.contract; "
        "assert not {'backends.reference', 'backends.eager', 'backends.fused', 'torch'} & set(sys.modules); "
        "r = backends.get('reference'); r.backward([1.0], [0.3], 0.5, -1.0, 1.0, scaler=backends.Scaler('tanh')); "
        "assert not {'backends.eager', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
