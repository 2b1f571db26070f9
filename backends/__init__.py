"""The quantizer: one contract, several implementations, and `get` to choose one.

Importing this package imports neither torch nor any backend.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from backends.contract import Backend, BackendUnavailableError, Gradients, Scaler, UnknownNameError, nearest

__all__ = ["NAMES", "BackendUnavailableError", "Gradients", "Scaler", "UnknownNameError", "get"]

NAMES = ("reference", "eager", "fused")
ENVIRONMENT_VARIABLE = "REPRO_BACKEND"


AUTOMATIC = {"cpu": "numba", "cuda": "triton"}
"""Device types for which `fused` is the automatic choice, each with the package that its kernels need."""


def get(name: str | None = None, device: Any = None) -> Backend:
    """The module of the backend called `name`.

    Without a name the environment variable `REPRO_BACKEND` decides; where that is unset or empty the choice is
    automatic: `fused` on a device that it has kernels for, `eager` on others and where no device is told. A backend
    asked for by name, in either way, never gives way to another one.

    `device` is where the arrays live (anything whose text starts with the device type: "cpu", "cuda:0", a
    `torch.device`); a named backend that cannot compute there is refused. What dtypes and scalers a backend computes
    shows when it is called; `autograd.fake_quantize` chooses by them too.

    Raises `UnknownNameError` (a `ValueError`) for an unknown name and `BackendUnavailableError` where a known
    backend cannot serve.

    >>> get("reference").forward(0.7, 0.5, -1.0, 1.0)
    array(0.5)
    >>> get("eagr")
    Traceback (most recent call last):
    backends.contract.UnknownNameError: unknown backend 'eagr': known are reference, eager, fused; did you mean 'eager'?
    """
    return choose(name, preset(name), device)


def preset(name: str | None) -> str | None:
    """What the environment variable says, where no backend is asked for by name."""
    return None if name else os.environ.get(ENVIRONMENT_VARIABLE)


@cache
def choose(name: str | None, preset: str | None, device: Any) -> Backend:
    """`get`, given what `preset` found; remembered."""
    kind = None if device is None else str(device).partition(":")[0]
    asked = name or preset or _automatic(kind)
    if asked not in NAMES:
        origin = "backend" if name else f"backend in {ENVIRONMENT_VARIABLE}"
        raise UnknownNameError(f"unknown {origin} {asked!r}: {nearest(asked, NAMES)}")
    if asked == "reference" and kind not in (None, "cpu"):
        raise BackendUnavailableError(f"backend 'reference' computes on the CPU, not on {device}: ask for 'eager'")
    if asked == "fused" and kind not in (None, *AUTOMATIC):
        raise BackendUnavailableError(f"backend 'fused' has no kernels for {device}: ask for 'eager'")
    return cast(Backend, import_module(f"backends.{asked}"))


def _automatic(kind: str | None) -> str:
    """The backend for a device type."""
    return "fused" if kind in AUTOMATIC and find_spec(AUTOMATIC[kind]) else "eager"
