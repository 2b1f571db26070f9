"""The quantizer: one contract, several implementations, and `get` to choose one.

Importing this package imports neither torch nor any backend.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, cast

from backends.contract import Backend, BackendUnavailableError, Gradients, Scaler, UnknownNameError, nearest

__all__ = ["NAMES", "BackendUnavailableError", "Gradients", "Scaler", "UnknownNameError", "get"]

NAMES = ("reference", "eager", "fused")
ENVIRONMENT_VARIABLE = "REPRO_BACKEND"


def get(name: str | None = None, device: Any = None) -> Backend:
    """The module of the backend called `name`.

    Without a name the environment variable `REPRO_BACKEND` decides; where that is unset or empty the choice is
    automatic: `eager`. A backend asked for by name, in either way, never gives way to another one.

    `device` is where the arrays live (anything whose text starts with the device type: "cpu", "cuda:0", a
    `torch.device`); a named backend that cannot compute there is refused.

    Raises `UnknownNameError` (a `ValueError`) for an unknown name and `BackendUnavailableError` where a known
    backend cannot serve.

    >>> get("reference").forward(0.7, 0.5, -1.0, 1.0)
    array(0.5)
    >>> get("eagr")
    Traceback (most recent call last):
    backends.contract.UnknownNameError: unknown backend 'eagr': known are reference, eager, fused; did you mean 'eager'?
    """
    asked = name or os.environ.get(ENVIRONMENT_VARIABLE) or "eager"
    if asked not in NAMES:
        origin = "backend" if name else f"backend in {ENVIRONMENT_VARIABLE}"
        raise UnknownNameError(f"unknown {origin} {asked!r}: {nearest(asked, NAMES)}")
    if asked == "reference" and device is not None and not str(device).startswith("cpu"):
        raise BackendUnavailableError(f"backend 'reference' computes on the CPU, not on {device}: ask for 'eager'")
    try:
        module = import_module(f"backends.{asked}")
    except ModuleNotFoundError as error:
        if error.name != f"backends.{asked}":
            raise
        raise BackendUnavailableError(f"backend {asked!r} is not built yet: ask for 'eager'") from None
    return cast(Backend, module)
