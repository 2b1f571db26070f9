"""Streaming histograms of magnitudes: batches are counted and forgotten, the range grows, no count is ever lost."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from repro.errors import ReproError

BINS = 2048
SMALLEST = -120
"""Exponent of the narrowest bin: its reciprocal, and the top of its range, are normal float32 numbers."""
RUN = 256
"""Neighbours in memory that a sample takes together: fewer would cost the latency of memory, not its bandwidth."""


class CalibrationError(ReproError, ValueError):
    """Values, or a request, that no range can be found for: one line that says what is wrong with which."""


class Histogram:
    """Counts of |x| (`signed`) or max(x, 0) (not signed) over batches, per tensor or per channel.

        counts[c, j] = number of values of channel c with  j width[c] <= |x| < (j + 1) width[c]

    `width[c] = 2^e` with the least e such that `largest[c] < bins * width[c]`. When a larger value comes the range
    doubles, as often as needed, by adding up neighbouring bins: exact, since all edges are multiples of powers of two.
    So the histogram depends on the values alone, not on how they were cut into batches or in which order they came;
    at least half of the bins are in use. Counts are int64: they never saturate, as float32 does at 2^24.

    Args:
        axis: channel axis of the observed tensors; None: one histogram for all.
        signed: whether the range to be found is symmetric; otherwise it begins at 0, where negative values go.
        bins: a power of two.
        every: count one value in so many (the largest is exact all the same), which makes watching a network cheap.
            Of each `every` runs of 256 neighbours in memory one is counted, the first of the first `every`, the second
            of the next and so on; fewer than 256 every^2 values are counted in full. So what is counted depends on the
            batches.

    Raises `ValueError` for an argument out of its range.

    >>> histogram = Histogram(bins=4)
    >>> histogram.observe(torch.tensor([0.5, -0.9]))
    >>> histogram.width.item(), histogram.counts.tolist()
    (0.25, [[0, 0, 1, 1]])
    >>> histogram.observe(torch.tensor([3.0]))
    >>> histogram.width.item(), histogram.counts.tolist(), histogram.largest.item()
    (1.0, [[2, 0, 0, 1]], 3.0)
    """

    def __init__(self, *, axis: int | None = None, signed: bool = True, bins: int = BINS, every: int = 1) -> None:
        if bins < 2 or bins & (bins - 1):
            raise ValueError(f"bins={bins}: give a power of two")
        if every < 1:
            raise ValueError(f"every={every}: give 1 or more")
        if axis is not None and every > 1:
            raise ValueError(f"every={every}: only histograms per tensor can be sampled")
        self.axis, self.signed, self.bins, self.every = axis, signed, bins, every
        self.counts = torch.zeros(0, bins, dtype=torch.int64)
        """(channels, bins) int64; no channels before the first values; one per tensor."""
        self.largest = torch.zeros(0, dtype=torch.float64)
        """(channels,): largest magnitude seen, exact."""
        self._exponent = torch.zeros(0, dtype=torch.int64)
        self._scale = np.zeros(0, np.float32)
        self._bounds: tuple[Tensor, Tensor] | None = None

    @property
    def width(self) -> Tensor:
        """(channels,) float64: bin widths, in the unit of x."""
        return torch.ldexp(torch.ones_like(self.largest), self._exponent)

    @property
    def total(self) -> Tensor:
        """(channels,) int64: values counted."""
        return self.counts.sum(1)

    def observe(self, x: Tensor) -> None:
        """Count a batch: any shape, any float type, any device; an empty one changes nothing.

        Raises `CalibrationError` for NaN and infinities and for another number of channels than before; `TypeError`
        for integers and for what is no tensor. After an error the histogram is as it was.
        """
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            raise TypeError(f"expected a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
        rows = self._rows(x.detach().float())
        if rows.numel() == 0:
            return
        low, high = rows.aminmax(dim=self._each)
        if not self._holds(low, high):
            self._widen(rows, low, high)
        self._count(rows)

    def _holds(self, low: Tensor, high: Tensor) -> bool:
        """Whether values as large were seen before; not so for NaN and infinities. Few operations: every batch asks."""
        if self._bounds is None:
            return False
        least, most = self._bounds
        return bool((low >= least).all()) and bool((high <= most).all())

    def _widen(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        """Make room for the values between `low` and `high` of each channel."""
        if not (low.isfinite().all() and high.isfinite().all()):
            bad = int((~torch.isfinite(rows)).sum())
            raise CalibrationError(f"{bad} of {rows.numel()} values are NaN or infinite: a range needs finite values")
        largest = torch.maximum(high, -low) if self.signed else high.clamp(min=0)
        first = len(self.counts) == 0  # nothing to move into wider bins
        if first:
            self._begin(len(rows), rows.device)
        doublings = self._grow_to(largest.double().cpu().reshape(-1))
        if not first and doublings.any():
            self._double(doublings)
        self._scale = np.ldexp(np.float32(1), -self._exponent.numpy())
        most = self.largest.to(low).view_as(low)
        self._bounds = (-most if self.signed else torch.full_like(most, torch.finfo(most.dtype).min), most)

    @property
    def _each(self) -> int | None:
        """The dimension of `_rows` to reduce: all of it, for one histogram, which torch does on all threads."""
        return None if self.axis is None else 1

    def _rows(self, x: Tensor) -> Tensor:
        """(channels, values) of x: a view where memory allows it; per tensor in memory order, which costs nothing."""
        if self.axis is None:
            dense = x if x.is_contiguous() or x.ndim != 4 else x.permute(0, 2, 3, 1)
            return dense.reshape(1, -1)
        if not -x.ndim <= self.axis < x.ndim:
            raise CalibrationError(f"axis={self.axis} does not exist: the values have shape {tuple(x.shape)}")
        rows = x.movedim(self.axis, 0).flatten(1) if x.ndim > 1 else x.reshape(-1, 1)
        if len(self.counts) not in (0, len(rows)):
            raise CalibrationError(f"{len(rows)} channels where earlier batches had {len(self.counts)}")
        return rows.contiguous()

    def _begin(self, channels: int, device: torch.device) -> None:
        self.counts = torch.zeros(channels, self.bins, dtype=torch.int64, device=device)
        self.largest = torch.zeros(channels, dtype=torch.float64)
        self._exponent = torch.full((channels,), SMALLEST)

    def _grow_to(self, largest: Tensor) -> Tensor:
        """Widen the bins to hold `largest`; gives how often each channel's width doubled."""
        self.largest = torch.maximum(self.largest, largest)
        # largest = f 2^k with 1/2 <= f < 1, so that largest < 2^k = bins * 2^(k - log2 bins)
        needed = torch.frexp(self.largest).exponent.long() - (self.bins.bit_length() - 1)
        needed = torch.where(self.largest > 0, needed, SMALLEST)  # frexp gives 0 the exponent 0
        doublings = (needed - self._exponent).clamp(min=0)
        self._exponent = self._exponent + doublings
        return doublings

    def _double(self, doublings: Tensor) -> None:
        moved = torch.arange(self.bins) >> doublings.clamp(max=62)[:, None]
        self.counts = torch.zeros_like(self.counts).scatter_add_(1, moved.to(self.counts.device), self.counts)

    def _count(self, rows: Tensor) -> None:
        if rows.device.type == "cpu":
            from repro.quantizers.calibration.kernels import count

            runs, length = _runs(rows.shape[1], self.every)
            count(rows.numpy(), runs, length, self._scale, self.signed, self.counts.numpy())
        else:
            self.counts += self._counted(self._sample(rows), torch.from_numpy(self._scale).to(rows.device))

    def _sample(self, rows: Tensor) -> Tensor:
        runs, length = _runs(rows.shape[1], self.every)
        return rows.unfold(1, length, 1)[:, torch.from_numpy(runs).to(rows.device)].flatten(1)

    def _counted(self, rows: Tensor, scale: Tensor) -> Tensor:
        """The counts of rows by torch alone, on any device: integers, where `torch.histc` would count in float32."""
        magnitude = rows.abs() if self.signed else rows.clamp(min=0)
        index = (magnitude * scale[:, None]).long() + self.bins * torch.arange(len(rows), device=rows.device)[:, None]
        return torch.bincount(index.flatten(), minlength=self.counts.numel()).view_as(self.counts)

    def state_dict(self) -> dict[str, Tensor]:
        """All that was counted, for `of`."""
        return {"counts": self.counts, "largest": self.largest, "exponent": self._exponent}

    @classmethod
    def of(cls, state: dict[str, Tensor], signed: bool, axis: int | None = None, every: int = 1) -> Histogram:
        """The histogram that a `state_dict` was taken from; `signed`, `axis` and `every` as they were."""
        histogram = cls(axis=axis, signed=signed, bins=state["counts"].shape[1], every=every)
        histogram.counts = state["counts"]
        histogram.largest, histogram._exponent = state["largest"].cpu(), state["exponent"].cpu()
        return histogram

    def numpy(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(counts, width, largest) as arrays on the CPU. Raises `CalibrationError` when nothing was observed."""
        if len(self.counts) == 0:
            raise CalibrationError("no values were observed: a range needs at least one")
        return self.counts.cpu().numpy(), self.width.numpy(), self.largest.numpy()


@cache
def _runs(n: int, every: int) -> tuple[np.ndarray, int]:
    """What is counted of a row of n values: where each run of neighbours starts, int64, and how long it is."""
    groups = n // (RUN * every)
    if every == 1 or groups < every:
        return np.zeros(1, np.int64), n
    group = np.arange(groups)
    return (group * every + group % every) * RUN, RUN
