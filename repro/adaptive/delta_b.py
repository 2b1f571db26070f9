"""Delta_B, the relative accuracy of one network over bit-widths B: what its printed values allow, in exact arithmetic.

    Delta_B = 100/|B| * sum over b of acc_b / acc_b(Individual)                      (paper B)

A printed number stands for the closed interval of half a last digit each way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from repro.evidence.intervals import Interval, ratio_by_seed, ratio_of_means
from repro.published import Printed

Cells = Mapping[int, Printed]
"""Printed accuracies in percent by bit-width."""
Runs = Mapping[int, Mapping[int, float]]
"""Accuracies of ours in percent by bit-width, then by seed."""


def derivable(row: Cells, individual: Cells, by_definition: frozenset[int] = frozenset()) -> tuple[Fraction, Fraction]:
    """The closed interval of Delta_B that a printed row allows.

        low  = 100/|B| * sum (a_b - h) / (i_b + h)
        high = 100/|B| * sum (a_b + h) / (i_b - h)

    Args:
        row, individual: printed accuracies in percent by bit-width.
        by_definition: bit-widths at which the cell is the Individual network's own and contributes exactly 100/|B|.

    >>> from repro.published import table
    >>> printed = table("table1")
    >>> joint, individual = ({b: printed.cell(m, b) for b in printed.bits} for m in ("joint", "individual"))
    >>> [round(float(bound), 3) for bound in derivable(joint, individual)]
    [42.486, 42.636]
    """
    share = Fraction(100, len(individual))
    low = high = Fraction(0)
    for bits, base in individual.items():
        if bits in by_definition:
            low, high = low + share, high + share
        else:
            low += share * row[bits].low / base.high
            high += share * row[bits].high / base.low
    return low, high


def ours(row: Runs, individual: Runs) -> Interval | None:
    """Our Delta_B: 100/|B| * sum mean(a_b) / mean(i_b) over the seeds that every cell has; None where there is none.

    None too where Individual is right about nothing at some bit-width. The interval is that of the delta method over
    paired seeds (`evidence.intervals.ratio_of_means`).

    Args:
        row, individual: accuracies in percent by bit-width, then by seed.

    >>> ours({8: {0: 45.0, 1: 55.0}}, {8: {0: 100.0, 1: 100.0, 2: 90.0}}).estimate
    50.0
    """
    seeds, numerators, denominators = _paired(row, individual)
    return ratio_of_means(numerators, denominators, scale=100) if seeds else None


def by_seed(row: Runs, individual: Runs) -> dict[int, float]:
    """Our Delta_B as a value per seed (`evidence.intervals.ratio_by_seed`), so that methods are compared in pairs.

    >>> by_seed({8: {0: 45.0, 1: 55.0}}, {8: {0: 100.0, 1: 100.0, 2: 90.0}})
    {0: 45.0, 1: 55.0}
    """
    seeds, numerators, denominators = _paired(row, individual)
    return dict(zip(seeds, ratio_by_seed(numerators, denominators, scale=100), strict=True)) if seeds else {}


def _paired(row: Runs, individual: Runs) -> tuple[list[int], list[list[float]], list[list[float]]]:
    """The seeds that every cell has, and the accuracies of both over them, shape (seeds, bit-widths).

    No seeds where Individual is right about nothing at some bit-width: no ratio exists then.
    """
    seeds = sorted(set.intersection(*(set(cells) for runs in (row, individual) for cells in runs.values())))
    own, base = ([[runs[b][s] for b in individual] for s in seeds] for runs in (row, individual))
    return (seeds, own, base) if all(map(any, zip(*base, strict=True))) else ([], [], [])


@dataclass(frozen=True)
class Feasibility:
    """Whether several rows can hold together: they share their denominators.

    Attributes:
        possible: shown by denominators that meet every constraint in exact arithmetic.
        slack: the largest amount in points by which all constraints can be met at once (negative: broken at least).
        accuracies: those denominators, in percent by bit-width.
    """

    possible: bool
    slack: float
    accuracies: Mapping[int, float]


def hold_together(rows: Sequence[tuple[Printed, Cells, frozenset[int]]], individual: Cells) -> Feasibility:
    """Solve the linear program over the reciprocals u_b = 1/i_b that all `rows` share.

    With u_b in [1/(i_b + h), 1/(i_b - h)], row m needs, for its printed D,

        100/|B| * sum (a_b - h) u_b <= D + h      and      100/|B| * sum (a_b + h) u_b >= D - h

    where a cell equal to Individual's by definition contributes 100/|B|. The common slack of these is maximised, and
    the solution is checked with exact rationals.

    Args:
        rows: (printed Delta_B, printed accuracies, bit-widths at which the cell is Individual's own).
        individual: printed accuracies of the denominators.
    """
    from scipy.optimize import linprog

    widths = list(individual)
    upper, bound = [], []
    for low, high, least, largest in _constraints(rows, widths):
        upper.append([float(c) for c in low] + [1.0])
        bound.append(float(largest))
        upper.append([-float(c) for c in high] + [1.0])
        bound.append(-float(least))
    box = [(float(1 / individual[b].high), float(1 / individual[b].low)) for b in widths]
    solution = linprog([0.0] * len(widths) + [-1.0], A_ub=upper, b_ub=bound, bounds=[*box, (None, None)])
    slack = float(solution.x[-1])
    u = [
        min(max(Fraction(float(x)), 1 / individual[b].high), 1 / individual[b].low)
        for b, x in zip(widths, solution.x, strict=False)
    ]
    possible = all(
        sum(c * x for c, x in zip(low, u, strict=True)) <= largest
        and sum(c * x for c, x in zip(high, u, strict=True)) >= least
        for low, high, least, largest in _constraints(rows, widths)
    )
    return Feasibility(possible, slack, {b: float(1 / x) for b, x in zip(widths, u, strict=True)})


def _constraints(
    rows: Sequence[tuple[Printed, Cells, frozenset[int]]], widths: Sequence[int]
) -> list[tuple[list[Fraction], list[Fraction], Fraction, Fraction]]:
    """For each row: coefficients of the least and of the largest sum, and the limits that the sums must meet."""
    share = Fraction(100, len(widths))
    constraints = []
    for printed, cells, own in rows:
        low = [Fraction(0) if b in own else share * cells[b].low for b in widths]
        high = [Fraction(0) if b in own else share * cells[b].high for b in widths]
        fixed = share * len(own)
        constraints.append((low, high, printed.low - fixed, printed.high - fixed))
    return constraints
