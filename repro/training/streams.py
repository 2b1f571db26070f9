"""Random streams keyed by (seed, purpose, step): one method's extra draws never shift another's data order."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def stream(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """The generator of one purpose at one step. Equal keys give equal draws, on any machine, in any order of calls.

    >>> int(stream(0, "order").integers(1000)) == int(stream(0, "order").integers(1000))
    True
    >>> int(stream(0, "order").integers(1000)) == int(stream(0, "crop").integers(1000))
    False
    """
    return np.random.default_rng((seed, zlib.crc32(purpose.encode()), step))


@contextmanager
def torch_seeded(seed: int, purpose: str, step: int = 0) -> Iterator[None]:
    """Seed torch's global generator for code that takes no generator (weight initialisation); restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(stream(seed, purpose, step).integers(2**63 - 1)))
        yield
