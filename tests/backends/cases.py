"""The backends under test, each seen as functions from NumPy arrays to NumPy arrays. A new backend is one more line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import backends
from backends import BackendUnavailableError, Gradients, Scaler


@dataclass(frozen=True)
class Case:
    """A backend on a device."""

    name: str
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.name}-{self.device}"

    @property
    def module(self) -> ModuleType:
        module = backends.get(self.name, self.device)
        assert module.__name__ == f"backends.{self.name}"
        return module

    def native(self, value: Any) -> Any:
        """An array as the backend takes it, same strides; numbers and None stay."""
        if self.name == "reference" or not isinstance(value, np.ndarray | np.generic):
            return value
        return torch.from_numpy(np.asarray(value)).to(self.device)

    def codes(self, *arguments: Any, axis: int | None = None) -> np.ndarray:
        return plain(self.call("codes", *map(self.native, arguments), axis=axis))

    def forward(self, *arguments: Any, axis: int | None = None) -> np.ndarray:
        return plain(self.call("forward", *map(self.native, arguments), axis=axis))

    def backward(
        self, *arguments: Any, scaler: Scaler, axis: int | None = None, noise: Any = None, **needs: Any
    ) -> Gradients:
        native = map(self.native, arguments)
        gradients = self.call("backward", *native, scaler=scaler, axis=axis, noise=self.native(noise), **needs)
        return Gradients(*map(plain, gradients))

    def multiplier(self, scaler: Scaler, grad: Any, error: Any, noise: Any = None) -> np.ndarray:
        return plain(self.call("multiplier", scaler, *map(self.native, (grad, error, noise))))

    def call(self, function: str, *arguments: Any, **options: Any) -> Any:
        """The module's function. A test ends, skipped, where fused leaves a dtype or a scaler to eager, as it may.

        float32, bfloat16 and a built-in scaler it may not leave.
        """
        try:
            return getattr(self.module, function)(*arguments, **options)
        except BackendUnavailableError as declined:
            if self.name == "fused" and re.search("not torch.float(16|64)|registered scaler", str(declined)):
                pytest.skip(str(declined))
            raise


def plain(result: Any) -> np.ndarray:
    """A backend's array as a NumPy array."""
    return result.cpu().numpy() if isinstance(result, torch.Tensor) else result


no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

CASES = [
    pytest.param(Case("reference"), id="reference"),
    pytest.param(Case("eager"), id="eager"),
    pytest.param(Case("eager", "cuda"), id="eager-cuda", marks=no_cuda),
    pytest.param(Case("fused"), id="fused"),
    pytest.param(Case("fused", "cuda"), id="fused-cuda", marks=no_cuda),
]
OTHER_CASES = CASES[1:]
"""Those that are compared with the reference; the reference is never compared with itself."""
TORCH_CASES = OTHER_CASES


def assert_equal(ours: np.ndarray, expected: np.ndarray) -> None:
    """Same dtype, shape and values: zeros compare as values, any NaN equals any NaN (Q5)."""
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    if ours.tobytes() != expected.tobytes():
        np.testing.assert_array_equal(ours, expected)
