"""The calibrators: how a histogram of values becomes the range of a quantizer. A new one is one registered function."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backends.contract import check_parameters
from repro.errors import suggestion
from repro.quantizers.calibration.histogram import BINS, CalibrationError, Histogram

BITS = range(2, 9)
CANDIDATES = 128
CHANNELS = 64
"""Channels of a tensor that are taken at a time: their histograms stay in the cache."""
ALL_ZERO = 1.0
"""Range of a tensor or channel that holds nothing but zeros; paper A's rule `q_max == 0 -> 1`."""


class Grid(NamedTuple):
    """What a bit-width and a sign leave of a range: its largest code, and its number of magnitudes."""

    bits: int
    signed: bool

    @property
    def q(self) -> int:
        """Largest code: 2^(bits-1) - 1 signed, 2^bits - 1 unsigned."""
        return 2 ** (self.bits - self.signed) - 1

    @property
    def levels(self) -> int:
        """Levels that magnitudes are spread over in the KL search: 128 for 8 bits signed, as published."""
        return 2 ** (self.bits - self.signed)


class Range(NamedTuple):
    """A quantizer's parameters in the unit of x, float64: numbers per tensor, (channels,) arrays per channel."""

    step: Any
    lower: Any
    upper: Any


Calibrator = Callable[..., np.ndarray]
"""`f(histogram, grid, **options)`: the threshold that the range ends at, for each channel, float64 (channels,)."""

_registered: dict[str, Calibrator] = {}


def register_calibrator(name: str) -> Callable[[Calibrator], Calibrator]:
    """Decorator that makes `f(histogram, grid, **options)` the calibrator `name`. Raises `ValueError` if it is taken.

    >>> @register_calibrator("half")
    ... def half(histogram, grid):
    ...     return histogram.numpy()[2] / 2
    >>> from torch import tensor
    >>> calibrate(tensor([1.0, -4.0]), "half", bits=2)
    Range(step=2.0, lower=-2.0, upper=2.0)
    >>> unregister_calibrator("half")
    """

    def register(function: Calibrator) -> Calibrator:
        if name in _registered:
            raise ValueError(f"a calibrator named {name!r} exists already")
        _registered[name] = function
        return function

    return register


def unregister_calibrator(name: str) -> None:
    """Forget a registered calibrator; raises `KeyError` if there is none of this name."""
    del _registered[name]


def calibrator_names() -> tuple[str, ...]:
    """Names of all calibrators: `max`, `percentile`, `entropy`, `mse`, then registered ones."""
    return tuple(_registered)


def calibrate(
    values: Histogram | Tensor,
    method: str = "entropy",
    *,
    bits: int = 8,
    signed: bool = True,
    axis: int | None = None,
    **options: Any,
) -> Range:
    """The range of a `bits`-bit quantizer for values: a tensor, or a histogram of the batches that were observed.

        upper = threshold,    lower = -threshold (signed) or 0,    step = threshold / (2^(bits-1) - 1) or (2^bits - 1)

    Per channel where the histogram is, or with `axis` for a tensor; `options` go to the calibrator. A channel of zeros
    gets the threshold 1, a constant one a threshold of its magnitude.

    Raises `CalibrationError` (a `ValueError`) for an unknown method, for bits outside 2..8, for a histogram of the
    other sign, when nothing was observed, for NaN and infinities, and for values so small that the step is no float32.

    >>> import torch
    >>> calibrate(torch.tensor([0.5, -1.0, 3.0]), "max", bits=3)
    Range(step=1.0, lower=-3.0, upper=3.0)
    >>> calibrate(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), "max", bits=2, signed=False, axis=0).upper
    array([3., 1.])
    >>> calibrate(torch.tensor([]))
    Traceback (most recent call last):
    repro.quantizers.calibration.histogram.CalibrationError: no values were observed: a range needs at least one
    """
    if method not in _registered:
        raise CalibrationError(f"no calibrator {method!r}: {suggestion(method, calibrator_names())}")
    if not isinstance(bits, Integral) or bits not in BITS:
        raise CalibrationError(f"bits={bits}: give a width from {BITS[0]} to {BITS[-1]}")
    if isinstance(values, Tensor) and axis is not None and _channels(values, axis) > CHANNELS:
        own = partial(calibrate, method=method, bits=bits, signed=signed, axis=axis, **options)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # the compiled loops let go of the interpreter's lock
            return Range(*map(np.concatenate, zip(*pool.map(own, values.split(CHANNELS, axis)), strict=True)))
    histogram = values if isinstance(values, Histogram) else Histogram(axis=axis, signed=signed)
    if histogram is not values:
        histogram.observe(values)
    if histogram.signed != signed:
        raise CalibrationError(f"signed={signed}, but the histogram was taken with signed={histogram.signed}")
    grid = Grid(bits, signed)
    thresholds = _registered[method](histogram, grid, **options)
    upper = np.where(histogram.numpy()[2] > 0, thresholds, ALL_ZERO)
    found = Range(upper / grid.q, -upper if signed else np.zeros_like(upper), upper)
    try:
        for extreme in (upper.argmin(), upper.argmax()):  # what holds for both holds between them
            check_parameters(*(float(array[extreme]) for array in found))
    except ValueError as error:
        raise CalibrationError(f"{method} gives no usable range: {error}") from error
    return found if histogram.axis is not None else Range(*(float(array[0]) for array in found))


def _channels(x: Tensor, axis: int) -> int:
    return x.shape[axis] if -x.ndim <= axis < x.ndim else 0


@register_calibrator("max")
def maximum(histogram: Histogram, grid: Grid) -> np.ndarray:
    """The largest magnitude: nothing is clipped."""
    return histogram.numpy()[2]


@register_calibrator("percentile")
def percentile(histogram: Histogram, grid: Grid, percent: float = 99.99) -> np.ndarray:
    """The magnitude that `percent` % of the values do not exceed, to the upper edge of its bin.

    That is the ceil(N percent / 100)-th smallest of N values: with fewer than 10,000 values, 99.99 % is the largest.
    Raises `CalibrationError` unless 0 < percent <= 100.
    """
    if not 0 < percent <= 100:
        raise CalibrationError(f"percent={percent}: give a value above 0, up to 100")
    counts, width, largest = histogram.numpy()
    rank = np.ceil(counts.sum(1) * percent / 100)
    return np.minimum(((counts.cumsum(1) < rank[:, None]).sum(1) + 1) * width, largest)


@register_calibrator("entropy")
def entropy(histogram: Histogram, grid: Grid, zeros: str = "next") -> np.ndarray:
    """The threshold that loses least information: least KL divergence of the values from their quantized selves.

    For i = levels .. number of bins in use, with `levels` = 2^(bits-1) signed, 2^bits unsigned:

        P    = the first i bins, the last of them with all that lies beyond;  normalised
        Q    = the first i bins in `levels` equal groups, each group's count shared among its occupied bins; normalised
        KL_i = sum P ln(P / Q)

    and threshold = (m + 1/2) * width for the i = m with the least KL, the largest one of equals (to 1e-9 nats); never
    beyond the largest value. Empty bins stay empty in Q, so that a candidate whose last bin is empty has KL infinite.
    Where no candidate is finite (a constant tensor, or one in fewer bins than levels) it is the largest value.

    Source: Migacz, "8-bit Inference with TensorRT" (GTC 2017), for 2048 bins and 128 levels. Where it is silent: bin j
    belongs to group floor(j levels / i), as in NVIDIA's released code; i = all bins (nothing clipped) is a candidate.

    `zeros`: what the first bin counts. "next": as many as the second, as NVIDIA's released code has it: the exact zeros
    behind a ReLU lie on the grid whatever the threshold, yet a spike that Q spreads over its group would pull the
    threshold down to almost nothing. "kept": all its values, as on the slide. Raises `CalibrationError` for another,
    and for a histogram with so few bins that there is hardly a candidate to choose from.
    """
    from repro.quantizers.calibration.kernels import entropy

    if histogram.bins < 4 * grid.levels:
        raise CalibrationError(
            f"bins={histogram.bins}: too few to choose among thresholds at {grid.levels} levels, "
            f"give at least {4 * grid.levels} (default {BINS})"
        )
    if zeros not in ("next", "kept"):
        raise CalibrationError(f"zeros={zeros!r}: {suggestion(zeros, ('next', 'kept'))}")
    counts, width, largest = histogram.numpy()
    kept = entropy(counts, grid.levels, zeros == "kept")
    return np.where(kept > 0, np.minimum((kept + 0.5) * width, largest), largest)


@register_calibrator("mse")
def mse(histogram: Histogram, grid: Grid, candidates: int = CANDIDATES) -> np.ndarray:
    """The threshold of least squared error, among `largest * i / candidates` for i = 1 .. `candidates`.

    Each bin stands for its centre; the largest threshold of equals (to a relative 1e-9). Raises `CalibrationError` for
    fewer than one candidate.
    """
    from repro.quantizers.calibration.kernels import squared_error

    if candidates < 1:
        raise CalibrationError(f"candidates={candidates}: give 1 or more")
    counts, width, largest = histogram.numpy()
    return largest * squared_error(counts, largest / width, grid.q, candidates) / candidates
