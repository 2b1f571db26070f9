"""The statistics of Figure 4, the same for the released runs and for ours: differences, factorial, winner, ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, mean

from repro.evidence.intervals import (
    FEWEST_FLIPPED,
    Interval,
    Pairing,
    dunnett,
    pairing,
    simultaneous,
    t_interval,
)
from repro.figure4.cells import UNSCALED, Cell

Values = Mapping[int, float]
"""Of one cell, by seed or by number of the run."""

LEVELS = (UNSCALED, "ewgs", "invtanh")
"""Of both factors; the first is the reference."""
FLIP_SEED = 0


@dataclass(frozen=True)
class Study:
    """Values of every cell at one bit-width: of one network of ours, or of the released runs.

    Attributes:
        bits: the width.
        cells: values by cell; cells without any may be left out.
        flips: whether differences are judged by sign flips of whole seed rows (ours) or by Dunnett (the print).
    """

    bits: int
    cells: Mapping[Cell, Values]
    flips: bool

    @cached_property
    def control(self) -> Cell:
        """STE on both sides."""
        return Cell(self.bits, UNSCALED, UNSCALED)

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds that all cells have."""
        return sorted(set.intersection(*map(set, self.cells.values()))) if self.cells else []

    def means(self) -> dict[Cell, float]:
        """Mean of each cell over all that it has."""
        return {cell: mean(values.values()) for cell, values in self.cells.items()}

    @cached_property
    def differences(self) -> Mapping[Cell, Interval]:
        """Every other cell minus STE, with intervals that cover together; empty with fewer than two common seeds."""
        return self.against(self.control)

    @cached_property
    def behind(self) -> Mapping[Cell, Interval]:
        """Every other cell minus the one of the highest mean: multiple comparisons with the best (Hsu 1981).

        A cell whose interval reaches 0 cannot be told from the winner. The two-sided critical value is that of one
        fixed control, which is larger than the one-sided value of comparisons with the best.
        """
        return self.against(max(self.cells, key=lambda cell: fmean(self.cells[cell].values()))) if self.cells else {}

    def against(self, control: Cell) -> dict[Cell, Interval]:
        """Every other cell minus `control`; without bounds where no cell varies over seeds."""
        others = [cell for cell in self.cells if cell != control]
        if control not in self.cells or len(self.seeds) < 2 or not others:
            return {}
        arms = [[self.cells[cell][seed] for seed in self.seeds] for cell in others]
        middle = [self.cells[control][seed] for seed in self.seeds]
        if self.flips and len(self.seeds) >= FEWEST_FLIPPED:
            rows = zip(*([x - c for x, c in zip(arm, middle, strict=True)] for arm in arms), strict=True)
            return dict(zip(others, _flipped(list(rows)), strict=True))
        if all(min(values) == max(values) for values in (*arms, middle)):
            return {
                c: Interval(arm[0] - middle[0], None, None, 0.0, len(arm)) for c, arm in zip(others, arms, strict=True)
            }
        return dict(zip(others, dunnett(arms, middle), strict=True))

    # --- the factorial ---------------------------------------------------------------------------------------------

    @cached_property
    def effects_by_seed(self) -> Mapping[str, Values]:
        """Effects of the 3 x 3 block LEVELS^2, by seed; empty where a cell of it is missing.

        weights a:         mean over b of (a/b - ste/b)
        activations b:     mean over a of (a/b - a/ste)
        interaction a, b:  (a/b - a/ste) - (ste/b - ste/ste)
        """
        block = {(a, b): self.cells.get(Cell(self.bits, a, b), {}) for a in LEVELS for b in LEVELS}
        seeds = sorted(set.intersection(*map(set, block.values())))
        if not seeds:
            return {}
        reference, *others = LEVELS
        found: dict[str, Values] = {}
        for a in others:
            found[f"weights_{a}"] = {s: fmean(block[a, b][s] - block[reference, b][s] for b in LEVELS) for s in seeds}
        for b in others:
            found[f"activations_{b}"] = {
                s: fmean(block[a, b][s] - block[a, reference][s] for a in LEVELS) for s in seeds
            }
        for a in others:
            for b in others:
                found[f"interaction_{a}_{b}"] = {
                    s: block[a, b][s] - block[a, reference][s] - block[reference, b][s] + block[reference, reference][s]
                    for s in seeds
                }
        return found

    @cached_property
    def effects(self) -> Mapping[str, Interval]:
        """The effects with intervals that cover together: sign flips of whole seed rows, or Bonferroni for few."""
        by_seed = self.effects_by_seed
        if not by_seed:
            return {}
        columns = [list(values.values()) for values in by_seed.values()]
        if len(columns[0]) >= FEWEST_FLIPPED:
            return dict(zip(by_seed, _flipped(list(zip(*columns, strict=True))), strict=True))
        confidence = 1 - 0.05 / len(columns)
        return {name: t_interval(column, confidence) for name, column in zip(by_seed, columns, strict=True)}

    # --- how the arms of a seed hang together ------------------------------------------------------------------------

    def pairing(self, cell: Cell) -> Pairing:
        """Correlation with STE over seeds and Var(difference) / (sum of variances)."""
        return pairing(self.cells[cell], self.cells.get(self.control, {}))

    @cached_property
    def mean_correlation(self) -> float | None:
        """Mean over all pairs of cells of their correlation over seeds; None with fewer than three seeds."""
        if len(self.seeds) < 3 or len(self.cells) < 2:
            return None
        import numpy as np

        matrix = np.array([[values[seed] for seed in self.seeds] for values in self.cells.values()])
        if not np.ptp(matrix, axis=1).all():
            return None
        r = np.corrcoef(matrix)
        return float(r[np.triu_indices(len(r), 1)].mean())

    @cached_property
    def sd_of_difference(self) -> float | None:
        """Root mean square over cells of the standard deviation over seeds of the difference to STE."""
        control = self.cells.get(self.control, {})
        spreads = [
            t_interval([values[s] - control[s] for s in self.seeds]).sd
            for cell, values in self.cells.items()
            if cell != self.control and control and len(self.seeds) > 1
        ]
        found = [sd for sd in spreads if sd is not None]
        return math.sqrt(fmean(sd**2 for sd in found)) if found else None


def _flipped(matrix: Sequence[Sequence[float]]) -> list[Interval]:
    import numpy as np

    return simultaneous(matrix, rng=np.random.default_rng(FLIP_SEED))
