"""Quantizer settings and inputs for tests: fixed arrays that hit every hard place, and Hypothesis strategies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

BIT_WIDTHS = (2, 3, 4, 5, 6, 7, 8)
STEPS = (0.5, 0.1, 1 / 3, 0.0123, 7.77, 3e-39, 2.0**-149, 1.5 * 2.0**60, 1e36)
"""A power of two, whose ties are exact, ordinary steps, subnormal ones down to the smallest, and huge ones."""


@dataclass(frozen=True)
class Grid:
    """A quantizer with integer levels: codes q_min..q_max, and the parameters that the backends take."""

    step: float
    q_min: int
    q_max: int

    @property
    def lower(self) -> float:
        return self.q_min * self.step

    @property
    def upper(self) -> float:
        return self.q_max * self.step

    @property
    def parameters(self) -> tuple[float, float, float]:
        """`step, lower, upper`."""
        return self.step, self.lower, self.upper


def grid(bits: int, signed: bool, step: float = 0.1) -> Grid:
    """All 2**bits codes of a width; `step` as float32 has it.

    >>> grid(2, signed=True, step=0.5)
    Grid(step=0.5, q_min=-2, q_max=1)
    """
    q_min = -(2 ** (bits - 1)) if signed else 0
    return Grid(float(np.float32(step)), q_min, q_min + 2**bits - 1)


def tie_grid(setting: Grid) -> np.ndarray:
    """Every `(k + 0.5) * step`, a step beyond the range at both ends, with both float32 neighbours of each."""
    k = np.arange(setting.q_min - 2, setting.q_max + 2)
    ties = ((k + 0.5) * setting.step).astype(np.float32)
    return np.concatenate(
        [ties, np.nextafter(ties, -np.inf, dtype=np.float32), np.nextafter(ties, np.inf, dtype=np.float32)]
    )


def specials(setting: Grid) -> np.ndarray:
    """Zeros, NaN, infinities, huge and subnormal numbers, and the bounds with both neighbours."""
    limits = np.finfo(np.float32)
    bounds = np.array([setting.lower, setting.upper], dtype=np.float32)
    return np.concatenate(
        [
            np.array([0.0, -0.0, np.nan, np.inf, -np.inf, limits.max, limits.min], dtype=np.float32),
            np.array(
                [limits.tiny, -limits.tiny, limits.smallest_subnormal, -limits.smallest_subnormal, 1e30, -1e30],
                dtype=np.float32,
            ),
            bounds,
            np.nextafter(bounds, np.float32(-np.inf)),
            np.nextafter(bounds, np.float32(np.inf)),
        ]
    )


def random_values(setting: Grid, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """float32 spread evenly over the range and a quarter beyond, every eighth moved to the nearest half of a step."""
    width = setting.upper - setting.lower
    x = generator.random(shape, dtype=np.float32) * np.float32(1.5 * width) + np.float32(setting.lower - width / 4)
    on_halves = x.reshape(-1)[::8]
    on_halves[:] = np.rint(on_halves / np.float32(setting.step / 2)) * np.float32(setting.step / 2)
    return x


def grids() -> st.SearchStrategy[Grid]:
    """Every width, signed and unsigned, with steps from 1e-6 to 1e6."""
    return st.builds(grid, st.sampled_from(BIT_WIDTHS), st.booleans(), st.floats(1e-6, 1e6))


def symmetric_grids() -> st.SearchStrategy[Grid]:
    """Codes -q..q."""
    return st.builds(lambda step, q: Grid(float(np.float32(step)), -q, q), st.floats(1e-6, 1e6), st.integers(1, 127))


def inputs(setting: Grid, shape: tuple[int, ...] | None = None) -> st.SearchStrategy[np.ndarray]:
    """float32 arrays, no NaN: mostly within a few steps of the range, with ties, and now and then anything."""
    near = st.floats(setting.q_min - 3, setting.q_max + 3, width=32)
    half_codes = st.integers(2 * setting.q_min - 3, 2 * setting.q_max + 3).map(lambda k: k / 2)
    scaled = (near | half_codes).map(lambda v: float(np.float32(v * setting.step)))
    anything = st.floats(allow_nan=False, width=32)
    shape_strategy = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    return hnp.arrays(np.float32, shape or shape_strategy, elements=scaled | anything)
