"""Every claim of Figure 4, judged on the released runs and on ours."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache

from repro.adaptive.problems import IMAGENET
from repro.evidence.claims import (
    RUN_SCALES,
    Judged,
    Row,
    State,
    Verdict,
    judge_arithmetic,
    judge_number,
    judge_seeds,
)
from repro.evidence.collection import Evidence
from repro.evidence.intervals import Interval, rank_agreement
from repro.evidence.patterns import pattern_row, patterns
from repro.evidence.power import Design
from repro.evidence.records import Record
from repro.figure4 import EWGS, MAIN, NETWORKS, SCALES, Network, trained
from repro.figure4.cells import Cell, printed, widths
from repro.figure4.study import LEVELS, Study, Values
from repro.published import Printed

TARGET = "figure4"
PRINT = "print"
TOP1 = "top1"
OUTCOMES = (TOP1, "top1_bn", "weight_error", "oscillation")
ALWAYS_SHOWN = "cpu"
"""Whose rows are shown, missing or not."""
OK: tuple[State, str] = ("ok", "")
NO_DATA = f"data: {IMAGENET.by_hand}"
PRINTED_NETWORK = NETWORKS["lite0"]


def rows(evidence: Evidence) -> list[Row]:
    """The print by itself, `cpu` and each scale that has records by network, and the accuracies at `paper` scale."""
    found = [*_arithmetic(), *_separations(None), *_behind_the_winner(), *_effects(None)]
    found += _patterns(None, evidence)
    for scale in sorted({*evidence.scales, ALWAYS_SHOWN}, key=RUN_SCALES.index):
        for network in trained(SCALES[scale]):
            ours = Ours(evidence, scale, network)
            found += [*_separations(ours), *_effects(ours), *_patterns(ours, evidence), *_ranks(ours)]
    return found + [_accuracy(cell, Ours(evidence, "paper", PRINTED_NETWORK)) for cell in printed()]


# --- where values come from ------------------------------------------------------------------------------------------


@cache
def print_study(bits: int) -> Study:
    """The released runs at one width."""
    return Study(bits, {cell: found.values for cell, found in printed().items() if cell.bits == bits}, flips=False)


class Ours:
    """Our runs of one network at one scale."""

    def __init__(self, evidence: Evidence, scale: str, network: Network) -> None:
        self.evidence, self.scale, self.network = evidence, scale, network
        self.bits = network.bits(SCALES[scale])
        """Widths that it is trained at."""
        self._studies: dict[tuple[int, str], Study] = {}

    def cells(self, bits: int) -> list[Cell]:
        """The released pairs at a width."""
        return [cell for cell in printed() if cell.bits == bits]

    @property
    def records(self) -> list[Record]:
        """All of this network at this scale."""
        return [record for record in self.evidence.at(self.scale) if record.unit.startswith(f"{self.network.name}_")]

    def others(self) -> list[Cell]:
        """What else is recorded: a user's scalers, or a pair that was not released."""
        found = [
            Cell(*(record.settings[name] for name in Cell._fields))  # type: ignore[arg-type]
            for record in self.records
            if "bits" in record.settings
        ]
        return [cell for cell in dict.fromkeys(found) if cell not in printed()]

    def study(self, bits: int, outcome: str = TOP1) -> Study:
        """What is recorded of one outcome at one width."""
        if (bits, outcome) not in self._studies:
            values = {cell: self.values(cell, outcome) for cell in self.cells(bits)}
            own = {cell: found for cell, found in values.items() if found}
            self._studies[bits, outcome] = Study(bits, own, flips=True)
        return self._studies[bits, outcome]

    def swept(self) -> dict[float, float | None]:
        """Deltas of the pair that is swept over, smallest first, with what `values` is to be asked for: None is its
        own."""
        unit = Cell(MAIN, *EWGS).unit(self.network.name)
        records = [r for r in self.evidence.at(self.scale) if r.unit.startswith(f"{unit}_delta")]
        found: dict[float, float | None] = {float(r.settings["delta"]): float(r.settings["delta"]) for r in records}  # type: ignore[arg-type]
        if found:
            own = self.evidence.seeds(self.scale, unit).values()
            found |= {float(record.settings["delta"]): None for record in own}  # type: ignore[arg-type]
        return dict(sorted(found.items()))

    def values(self, cell: Cell, outcome: str = TOP1, delta: float | None = None) -> dict[int, float]:
        """One outcome of one cell by seed."""
        return self.evidence.values(self.scale, cell.unit(self.network.name, delta), outcome)

    def state(self, cells: Sequence[Cell]) -> tuple[State, str]:
        """The worst state of the units of these cells."""
        return self.evidence.worst(self.scale, self._units(cells))

    def complete(self, cells: Sequence[Cell]) -> bool:
        """Whether a verdict may rest on these cells."""
        return self.evidence.complete(self.scale, self._units(cells))

    def _units(self, cells: Sequence[Cell]) -> list[str]:
        return [cell.unit(self.network.name) for cell in cells]


# --- the print by itself ---------------------------------------------------------------------------------------------


def _arithmetic() -> Iterator[Row]:
    """Whether mean and sd of every cell follow from its runs, which are rounded too."""
    for cell, found in printed().items():
        runs = list(found.runs.values())
        n, h = len(runs), runs[0].h
        middle = sum((run.value for run in runs), Fraction(0)) / n
        spread = Fraction(statistics.stdev(map(float, runs)))
        # the sd is a norm of the centred runs over sqrt(n - 1), and that of n roundings is at most h sqrt(n)
        slack = h * Fraction(math.sqrt(n / (n - 1)))
        yield _arithmetic_row("mean_follows", cell, found.mean, middle - h, middle + h)
        yield _arithmetic_row("sd_follows", cell, found.sd, max(spread - slack, Fraction(0)), spread + slack)


def _arithmetic_row(claim: str, cell: Cell, stated: Printed, low: Fraction, high: Fraction) -> Row:
    return Row(
        target=TARGET,
        claim=claim,
        kind="arithmetic",
        row=cell.pair,
        column=_width(cell.bits),
        published=str(stated),
        read_from=printed()[cell].read_from,
        **judge_arithmetic(stated, low, high).columns(),  # type: ignore[arg-type]
    )


def _behind_the_winner() -> Iterator[Row]:
    """Which pairs the released runs tell from the best one."""
    for bits in widths():
        winner = max(print_study(bits).means().items(), key=lambda pair: pair[1])[0]
        for cell, interval in print_study(bits).behind.items():
            told = interval.high is not None and interval.high < 0
            yield _row(
                "told_from_winner",
                PRINT,
                cell.pair,
                _width(bits),
                interval,
                "holds" if told else "inconclusive",
                reason=f"winner: {winner.pair}; multiple comparisons with the best, Dunnett",
            )


def _accuracy(cell: Cell, ours: Ours) -> Row:
    """A printed mean against ours by the published recipe."""
    found, values = printed()[cell], list(ours.values(cell).values())
    margin = ours.evidence.preregistered["margin"]
    spread = float(found.sd), len(found.runs)
    judged = judge_number(found.mean, values, margin, ours.scale, *spread) if values else Judged("", margin=margin)
    judged = judged.once(ours.complete([cell]))
    state, reason = ours.state([cell])
    return Row(
        target=TARGET,
        claim=TOP1,
        kind="number",
        scale=ours.scale,
        row=cell.pair,
        column=_width(cell.bits),
        published=str(found.mean),
        read_from=found.read_from,
        state=state,
        reason=NO_DATA if state == "missing" else reason,
        **judged.columns(),  # type: ignore[arg-type]
    )


# --- differences and effects -----------------------------------------------------------------------------------------


def _separations(ours: Ours | None) -> Iterator[Row]:
    """Each pair against STE, all of one width at once: whether it separates from it, and in the printed direction."""
    for bits in widths() if ours is None else ours.bits:
        theirs = print_study(bits).differences
        study = print_study(bits) if ours is None else ours.study(bits)
        found = study.differences
        for cell, published in theirs.items():
            interval = found.get(cell)
            yield _direction_row("separates_from_ste", ours, cell.pair, bits, interval, published, (cell, cell.control))


def _effects(ours: Ours | None) -> Iterator[Row]:
    """The factorial at each width that was released in full, effect by effect."""
    for bits in widths() if ours is None else ours.bits:
        theirs = print_study(bits).effects
        found = theirs if ours is None else ours.study(bits).effects
        block = [Cell(bits, a, b) for a in LEVELS for b in LEVELS]
        for name, published in theirs.items():
            yield _direction_row("effect", ours, name, bits, found.get(name), published, block)


def _direction_row(
    claim: str,
    ours: Ours | None,
    name: str,
    bits: int,
    interval: Interval | None,
    published: Interval,
    cells: Sequence[Cell],
) -> Row:
    """`holds` where the interval lies on the side of 0 on which the print's estimate is, `fails` on the other.

    Ours gets a verdict only where the print claims a direction: where its own interval excludes 0.
    """
    column = _width(bits) if ours is None else f"{ours.network.name} {_width(bits)}"
    state, reason = OK if ours is None else ours.state(cells)
    scale = PRINT if ours is None else ours.scale
    decided = ours is None or (published.excludes_zero and ours.complete(cells))
    verdict: Verdict = same_side(interval, published.estimate) if interval and decided else ""
    return _row(claim, scale, name, column, interval, verdict, f"{published.estimate:+.3f}", state, reason)


def same_side(interval: Interval, published: float) -> Verdict:
    """Whether an interval excludes 0 on the side of a published estimate.

    >>> same_side(Interval(0.4, 0.1, 0.7, 1.0, 9), 0.6), same_side(Interval(-0.4, -0.7, -0.1, 1.0, 9), 0.6)
    ('holds', 'fails')
    """
    if not interval.excludes_zero:
        return "inconclusive"
    return "holds" if (interval.estimate > 0) == (published > 0) else "fails"


def _row(
    claim: str,
    scale: str,
    row: str,
    column: str,
    interval: Interval | None,
    verdict: Verdict,
    published: str = "",
    state: State = "ok",
    reason: str = "",
) -> Row:
    estimate, low, high, sd, n = interval or (None, None, None, None, None)
    return Row(
        target=TARGET,
        claim=claim,
        kind="pattern",
        scale=scale,
        row=row,
        column=column,
        published=published,
        read_from=next(iter(printed().values())).read_from,
        ours=estimate,
        sd=sd,
        n=n,
        low=low,
        high=high,
        verdict=verdict,
        state=state,
        reason=reason,
    )


# --- preregistered patterns ------------------------------------------------------------------------------------------


def _patterns(ours: Ours | None, evidence: Evidence) -> Iterator[Row]:
    """Those that the network is trained for; on the print those that it has runs for."""
    for pattern in patterns(evidence.preregistered):
        places = {place for contrast in pattern.contrasts for place in contrast.terms}
        cells = {cell for place in places for cell in _cells_of(place)}
        trained = widths() if ours is None else ours.bits
        if not {cell.bits for cell in cells} <= set(trained) or (ours is None and not all(map(_is_top1, places))):
            continue
        judged = judge_seeds(pattern, {place: _values(ours, place) for place in places})
        on_print = ""
        if all(map(_is_top1, places)):
            on_print = f"{judge_seeds(pattern, {place: _values(None, place) for place in places}).theta:g}"
        state, reason = OK if ours is None else ours.state(sorted(cells))
        judged = judged.once(ours is None or ours.complete(sorted(cells)))
        yield pattern_row(
            TARGET,
            pattern.name,
            judged,
            PRINT if ours is None else ours.scale,
            state,
            reason,
            row="" if ours is None else ours.network.name,
            published=on_print,
            read_from=next(iter(printed().values())).read_from,
        )


def _values(ours: Ours | None, place: tuple[str, str]) -> Values:
    """Values by seed of a cell, `ewgs/ste@3`, of one of its outcomes, `ewgs/ste@3 weight_error`, or of an effect."""
    name, bits, outcome = _parsed(place)
    if "/" not in name:
        return (print_study(bits) if ours is None else ours.study(bits, outcome)).effects_by_seed.get(name, {})
    cell = Cell(bits, *name.split("/"))
    return printed()[cell].values if ours is None else ours.values(cell, outcome)


def _cells_of(place: tuple[str, str]) -> list[Cell]:
    name, bits, _ = _parsed(place)
    if "/" in name:
        return [Cell(bits, *name.split("/"))]
    return [Cell(bits, a, b) for a in LEVELS for b in LEVELS]


def _is_top1(place: tuple[str, str]) -> bool:
    return _parsed(place)[2] == TOP1


def _parsed(place: tuple[str, str]) -> tuple[str, int, str]:
    bits, _, outcome = place[1].partition(" ")
    return place[0], int(bits), outcome or TOP1


# --- ranks and power -------------------------------------------------------------------------------------------------


def _ranks(ours: Ours) -> Iterator[Row]:
    """Whether our means order the pairs as the released ones do."""
    for bits in ours.bits:
        interval = rank_agreement(ours.study(bits).means(), print_study(bits).means())
        state, reason = ours.state(ours.cells(bits))
        verdict: Verdict = same_side(interval, 1.0) if interval and ours.complete(ours.cells(bits)) else ""
        column = f"{ours.network.name} {_width(bits)}"
        yield _row("rank_correlation", ours.scale, "all pairs", column, interval, verdict, "", state, reason)


def designs(evidence: Evidence) -> list[Design]:
    """Our comparison with STE at 3 bits as recorded, of each scale and network with two common seeds or more."""
    published = max(print_study(MAIN).differences.values(), key=lambda interval: interval.estimate).estimate
    found = []
    for scale in evidence.scales:
        for network in NETWORKS.values():
            study = Ours(evidence, scale, network).study(MAIN)
            sd = study.sd_of_difference
            if sd:
                found.append(
                    Design(
                        f"{network.label}, {MAIN} bits",
                        scale,
                        sd,
                        len(study.seeds),
                        len(study.cells) - 1,
                        evidence.core_seconds(scale, [network.start, *(c.unit(network.name) for c in study.cells)]),
                        published,
                    )
                )
    return found


def _width(bits: int) -> str:
    return f"{bits} bit"
