"""Every claim of Tables 1-4, judged: arithmetic of the print, patterns on print and ours, and each cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from repro.adaptive import delta_b
from repro.adaptive.methods import FLOAT, INDIVIDUAL, METHODS, Method
from repro.adaptive.settings import BEST_EPOCH
from repro.evidence.claims import (
    SMOKE,
    Judged,
    Pattern,
    Row,
    State,
    judge_arithmetic,
    judge_number,
    judge_print,
    judge_seeds,
)
from repro.evidence.collection import Evidence
from repro.evidence.intervals import Interval, rank_agreement, t_interval
from repro.evidence.patterns import pattern_row, patterns
from repro.evidence.records import Record
from repro.published import Printed, PublishedTable

DELTA_B = "delta_b"
RANK, BOLD = "rank_by_delta_b", "bold_is_best"
BY_DEFINITION = {"dq8": frozenset({8})}
"""Cells that are the Individual network's own: DQ (8 bit) at 8 bits is the individual 8-bit network."""


@dataclass(frozen=True)
class Arithmetic:
    """What the printed numbers of one table say of each other."""

    printed: PublishedTable

    @cached_property
    def compared(self) -> tuple[str, ...]:
        """Methods other than Individual, whose own Delta_B of 100 is a definition and which takes no rank."""
        return tuple(method for method in self.printed.methods if method != INDIVIDUAL)

    @cached_property
    def bounds(self) -> Mapping[str, tuple[Fraction, Fraction]]:
        """The interval of Delta_B that each method's row allows."""
        return {m: delta_b.derivable(self._cells(m), self._cells(INDIVIDUAL), _own(m)) for m in self.compared}

    @cached_property
    def judged(self) -> Mapping[str, Judged]:
        """Whether each printed Delta_B follows from its row."""
        return {m: judge_arithmetic(self.printed.delta_b(m), *self.bounds[m]) for m in self.compared}

    @cached_property
    def together(self) -> delta_b.Feasibility:
        """Whether all undisputed rows can hold together."""
        rows = [(self.printed.delta_b(m), self._cells(m), _own(m)) for m in self.undisputed]
        return delta_b.hold_together(rows, self._cells(INDIVIDUAL))

    @cached_property
    def undisputed(self) -> tuple[str, ...]:
        """Methods whose printed Delta_B follows from their row."""
        return tuple(method for method, judged in self.judged.items() if judged.verdict == "consistent")

    def rows(self) -> list[Row]:
        """Every arithmetic claim: derivability, the joint program, ranks, bold entries."""
        rows = [self._follows(method) for method in self.compared]
        rows += [self._together(), *map(self._rank, self.compared)]
        return rows + [self._bold(method, column) for method, column in sorted(self.printed.bold)]

    def _cells(self, method: str) -> dict[int, Printed]:
        return {bits: self.printed.cell(method, bits) for bits in self.printed.bits}

    def _row(self, claim: str, method: str, judged: Judged, published: object = "", reason: str = "") -> Row:
        return Row(
            target=self.printed.target,
            claim=claim,
            kind="arithmetic",
            row=method,
            column=DELTA_B,
            published=str(published),
            read_from=self.printed.read_from,
            reason=reason,
            **judged.columns(),  # type: ignore[arg-type]
        )

    def _follows(self, method: str) -> Row:
        printed, judged = self.printed.delta_b(method), self.judged[method]
        reason = ""
        if judged.verdict == "disputed":
            reason = (
                f"not derivable by rounding from its row in the {self.printed.read_from}: nearest derivable value "
                f"{judged.ours:.{printed.decimals}f}, gap {abs(judged.theta or 0):.{printed.decimals}f}"
            )
        return self._row("delta_b_follows", method, judged, printed, reason)

    def _together(self) -> Row:
        possible, slack = self.together.possible, self.together.slack
        reason = f"{len(self.undisputed)} undisputed rows, one set of denominators: slack {slack:+.4f} points"
        judged = Judged("consistent" if possible else "disputed", ours=round(slack, 6))
        return self._row("rows_hold_together", INDIVIDUAL, judged, reason=reason)

    def _rank(self, method: str) -> Row:
        """The rank that the printed Delta_B gives (1 is best, equals share) against those that the cells allow."""
        printed = {m: self.printed.delta_b(m).value for m in self.compared}
        best = 1 + sum(low > self.bounds[method][1] for low, _ in self.bounds.values())
        last = len(printed) - sum(high < self.bounds[method][0] for _, high in self.bounds.values())
        first_equal = 1 + sum(value > printed[method] for value in printed.values())
        last_equal = len(printed) - sum(value < printed[method] for value in printed.values())
        agree = first_equal <= last and best <= last_equal
        text = str(first_equal) if first_equal == last_equal else f"{first_equal}-{last_equal}"
        judged = Judged("consistent" if agree else "disputed", low=best, high=last)
        return self._row(RANK, method, judged, text, f"the accuracies allow ranks {best} to {last}")

    def _bold(self, method: str, column: str) -> Row:
        """Bold is for the best of a column, Individual left out."""
        cells = {m: self.printed.cells[m, column] for m in self.compared}
        best = max(cells, key=lambda m: cells[m].value)
        right = cells[method].value == cells[best].value
        judged = Judged("consistent" if right else "disputed", ours=float(cells[best]))
        reason = "" if right else f"{METHODS[best].label} has {cells[best]}"
        return self._row(BOLD, method, judged, cells[method], reason)


@dataclass(frozen=True)
class Measured:
    """Our runs at one scale, in the places of the printed table.

    Attributes:
        printed: the printed table.
        evidence: records of one store.
        scale: of `RUN_SCALES`.
    """

    printed: PublishedTable
    evidence: Evidence
    scale: str

    @property
    def records(self) -> list[Record]:
        """Those of the paper's rows and of ours; a user's rows have settings of their own."""
        own = {FLOAT, *_units(METHODS)}
        return [record for record in self.evidence.at(self.scale) if record.unit in own]

    def accuracy(self, method: str | Method, bits: int) -> dict[int, float]:
        """Accuracies in percent by seed."""
        row = METHODS[method] if isinstance(method, str) else method
        read = self.evidence.best if self.scale in BEST_EPOCH else self.evidence.values
        return read(self.scale, row.unit(bits), str(bits))

    def delta_b(self, method: str | Method) -> Interval | None:
        """Our Delta_B with its interval, None where no seed has every cell."""
        return delta_b.ours(self._runs(method), self._runs(INDIVIDUAL))

    def _runs(self, method: str | Method) -> dict[int, dict[int, float]]:
        return {bits: self.accuracy(method, bits) for bits in self.printed.bits}

    def state(self, *methods: str) -> tuple[State, str]:
        """The worst state of the units that measure these methods, and its reason."""
        return self.evidence.worst(self.scale, _units(methods))

    def cell(self, method: str, column: str) -> Mapping[int, float]:
        """Accuracy at a bit-width or Delta_B, by seed."""
        if column == DELTA_B:
            return delta_b.by_seed(self._runs(method), self._runs(INDIVIDUAL))
        return self.accuracy(method, int(column))

    def rows(self) -> list[Row]:
        """Every cell, each Delta_B and their order, rows of ours too, and the patterns as far as they can be judged."""
        cells, methods = printed_cells(self.printed), (*self.printed.methods, *self._ours())
        rows = [
            self._number(
                "top1", method, str(bits), cells.get((method, str(bits))), [*self.accuracy(method, bits).values()]
            )
            for method in methods
            for bits in self.printed.bits
        ]
        rows += [
            self._number(DELTA_B, method, DELTA_B, cells.get((method, DELTA_B)), self.delta_b(method))
            for method in methods
            if method != INDIVIDUAL
        ]
        rows += [self._order(self.agreement)] if self.agreement else []
        return rows + [self._pattern(pattern) for pattern in patterns(self.evidence.preregistered)]

    @cached_property
    def agreement(self) -> Interval | None:
        """Rank correlation of our Delta_B with the printed ones; None for fewer than four methods and at `smoke`."""
        if self.scale == SMOKE:
            return None
        theirs = {
            method: float(self.printed.delta_b(method)) for method in self.printed.methods if method != INDIVIDUAL
        }
        found = {method: self.delta_b(method) for method in theirs}
        return rank_agreement({method: delta.estimate for method, delta in found.items() if delta}, theirs)

    def _order(self, rho: Interval) -> Row:
        """The rank correlation, whose interval is over methods."""
        state, reason = self.state(*self.printed.methods)
        judged = Judged("", ours=rho.estimate, n=rho.n, low=rho.low, high=rho.high)
        return Row(
            target=self.printed.target,
            claim="rank_correlation",
            kind="number",
            scale=self.scale,
            row=f"{rho.n} methods",
            column=DELTA_B,
            read_from=self.printed.read_from,
            state=state,
            reason=reason,
            **judged.columns(),  # type: ignore[arg-type]
        )

    def _ours(self) -> list[str]:
        """The rows that are ours and planned at this scale: nothing is printed of them."""
        planned = {wanted.unit for wanted in self.evidence.planned if wanted.scale == self.scale}
        return [name for name, method in METHODS.items() if method.origin and planned.intersection(_units([name]))]

    def _number(
        self, claim: str, method: str, column: str, printed: Printed | None, ours: list[float] | Interval | None
    ) -> Row:
        judged = self._judged(column, printed, ours)
        methods = [method, *([INDIVIDUAL] if claim == DELTA_B else [])]
        judged = judged.once(self.evidence.complete(self.scale, _units(methods)))
        state, reason = self.state(*methods)
        return Row(
            target=self.printed.target,
            claim=claim,
            kind="number",
            scale=self.scale,
            row=method,
            column=column,
            published="" if printed is None else str(printed),
            read_from="" if printed is None else self.printed.read_from,
            state=state,
            reason=reason,
            **judged.columns(),  # type: ignore[arg-type]
        )

    def _judged(self, column: str, printed: Printed | None, ours: list[float] | Interval | None) -> Judged:
        """Ours beside the printed number, with the interval of the difference; what is not printed has its own."""
        if printed is not None:
            margin = self.evidence.preregistered["margins"][column]
            return judge_number(printed, ours, margin, self.scale) if ours else Judged("", margin=margin)
        if not ours:
            return Judged("")
        own = ours if isinstance(ours, Interval) else t_interval(ours)
        return Judged("", ours=own.estimate, sd=own.sd, n=own.n, low=own.low, high=own.high)

    def _pattern(self, pattern: Pattern) -> Row:
        places = {place for contrast in pattern.contrasts for place in contrast.terms}
        methods = {method for method, _ in places} | {INDIVIDUAL for _, column in places if column == DELTA_B}
        state, reason = self.state(*sorted(methods))
        judged = judge_seeds(pattern, {place: self.cell(*place) for place in places})
        judged = judged.once(self.evidence.complete(self.scale, _units(methods)))
        on_print = judge_print(pattern, printed_cells(self.printed))
        return _pattern_row(self.printed, pattern, judged, on_print, self.scale, state, reason)


def _units(methods: Iterable[str]) -> list[str]:
    """The units that measure methods."""
    return [unit for method in methods for unit, _ in METHODS[method].units()]


def printed_cells(printed: PublishedTable) -> dict[tuple[str, str], Printed]:
    """The accuracies of a printed table by (method, bits), and each Delta_B by (method, "delta_b")."""
    cells = {(m, str(b)): printed.cell(m, b) for m in printed.methods for b in printed.bits}
    return cells | {(m, DELTA_B): printed.delta_b(m) for m in printed.methods}


def _pattern_row(
    printed: PublishedTable,
    pattern: Pattern,
    judged: Judged,
    on_print: Judged,
    scale: str,
    state: State = "ok",
    reason: str = "",
) -> Row:
    """`published` is the binding contrast's value in print."""
    value, source = f"{on_print.theta:g}", printed.read_from
    return pattern_row(printed.target, pattern.name, judged, scale, state, reason, published=value, read_from=source)


def rows(printed: PublishedTable, evidence: Evidence, default: str) -> list[Row]:
    """All rows of a table: what needs no run first, then what is judged at each scale.

    Scales are those of `Evidence.judged_scales`.
    """
    found = Arithmetic(printed).rows()
    for pattern in patterns(evidence.preregistered):
        judged = judge_print(pattern, printed_cells(printed))
        found.append(_pattern_row(printed, pattern, judged, judged, "print"))
    for scale in evidence.judged_scales(default):
        found += Measured(printed, evidence, scale).rows()
    return found


def _own(method: str) -> frozenset[int]:
    return BY_DEFINITION.get(method, frozenset())
