"""The cells of the study, a bit-width and a pair of scalers each, and what the released runs found in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, cast

from repro.published import Printed, read

UNSCALED = "ste"


class Cell(NamedTuple):
    """One quantized training: the bit-width of all tensors, the scaler of weights and that of activations."""

    bits: int
    weights: str
    activations: str

    @property
    def pair(self) -> str:
        """As the figure writes it.

        >>> Cell(3, "ewgs", "invtanh").pair
        'ewgs/invtanh'
        """
        return f"{self.weights}/{self.activations}"

    @property
    def scaled(self) -> tuple[str, ...]:
        """Scalers other than STE."""
        return tuple(name for name in dict.fromkeys(self[1:]) if name != UNSCALED)

    @property
    def control(self) -> Cell:
        """STE on both sides, at the same width."""
        return Cell(self.bits, UNSCALED, UNSCALED)

    def unit(self, network: str, delta: float | None = None) -> str:
        """Name of its unit; with a delta, of one of the sweep.

        >>> Cell(3, "ewgs", "ste").unit("small"), Cell(3, "ewgs", "ewgs").unit("small", 0.05)
        ('small_3bit_ewgs_ste', 'small_3bit_ewgs_ewgs_delta5e-02')
        """
        name = f"{network}_{self.bits}bit_{self.weights}_{self.activations}"
        return name if delta is None else f"{name}_delta{delta:.0e}"


@dataclass(frozen=True)
class PrintedCell:
    """What was released of one cell."""

    runs: Mapping[int, Printed]
    """Top-1 by number of the run; run i has the same seed in every cell."""
    mean: Printed
    sd: Printed
    drawn: bool
    """Whether the printed figure shows it."""
    read_from: str

    @property
    def values(self) -> dict[int, float]:
        """Top-1 by run, in percent."""
        return {run: float(value) for run, value in self.runs.items()}


@cache
def printed() -> Mapping[Cell, PrintedCell]:
    """All cells that were released, in the order of their file.

    >>> cells = printed()
    >>> len([cell for cell in cells if cell.bits == 3]), len(next(iter(cells.values())).runs)
    (18, 20)
    """
    runs: dict[Cell, dict[int, Printed]] = {}
    for row in read("figure4_runs"):
        runs.setdefault(_cell(row), {})[cast(int, row["run"])] = cast(Printed, row["top1"])
    return {
        _cell(row): PrintedCell(
            runs[_cell(row)],
            cast(Printed, row["top1_mean"]),
            cast(Printed, row["top1_sd"]),
            row["in_figure4"] == 1,
            str(row["read_from"]),
        )
        for row in read("figure4")
    }


def widths() -> tuple[int, ...]:
    """Bit-widths that were released, in the order of their file.

    >>> widths()
    (3, 2, 4)
    """
    return tuple(dict.fromkeys(cell.bits for cell in printed()))


def _cell(row: Mapping[str, object]) -> Cell:
    return Cell(cast(int, row["bits"]), str(row["weight_scaler"]), str(row["activation_scaler"]))
