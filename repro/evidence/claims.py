"""Claims about published numbers, the closed lists of verdicts and states, and the rules that give a verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple, get_args

from repro.evidence.intervals import Interval, equivalence_interval, t_interval
from repro.published import Printed

Kind = Literal["arithmetic", "pattern", "number"]
Verdict = Literal["reproduced", "agrees", "holds", "consistent", "inconclusive", "", "differs", "fails", "disputed"]
State = Literal["ok", "stale", "missing", "error"]

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""From best to worst. The empty text is "no verdict": losing a good verdict is worse, gaining a bad one too."""

STATES: tuple[State, ...] = get_args(State)
"""From best to worst."""

MISSING = ("data", "compute", "not built")
"""What the reason of a `missing` state begins with."""

SMOKE = "smoke"
"""The scale that proves the pipeline where it runs: its numbers are no evidence, and nothing is judged on them."""

RUN_SCALES = (SMOKE, "cpu", "gpu", "paper")
"""How much was really run, smallest first."""

SCALES = ("", "print", *RUN_SCALES)
"""Scales of a row: `print` needs no run and is judged from printed numbers; empty where no scale is built yet."""

STAND_IN = "stand_in"
"""Claim of a row whose data stand in for the published: it shows that a pipeline runs, and is never judged."""

VERDICTS_OF: Mapping[Kind, frozenset[Verdict]] = {
    "arithmetic": frozenset({"", "consistent", "disputed"}),
    "pattern": frozenset({"", "holds", "fails", "inconclusive"}),
    "number": frozenset({"", "reproduced", "agrees", "differs", "inconclusive"}),
}


SCALE_OF: Mapping[str, str] = {"reproduced": "paper", "agrees": "gpu"}
"""Scale that a verdict is reserved for."""


class ClaimError(ValueError):
    """A claim or a row that breaks a rule of the evidence: one line that says which."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published or claimed value, judged: one line of a target's CSV, columns in this order.

    Raises `ClaimError` for a kind, scale, verdict or state outside its closed list, a verdict that this kind or
    scale cannot have, a state other than `ok` without a reason, and a number that is not finite.

    >>> Row(target="table1", claim="delta_b", kind="arithmetic", verdict="holds")
    Traceback (most recent call last):
    repro.evidence.claims.ClaimError: table1 delta_b: an arithmetic claim cannot have the verdict 'holds'
    """

    target: str
    claim: str
    kind: Kind
    scale: str = "print"
    row: str = ""
    column: str = ""
    published: str = ""
    """As printed."""
    read_from: str = ""
    ours: float | None = None
    sd: float | None = None
    n: int | None = None
    low: float | None = None
    """`low` to `high` is the interval that the verdict was read from; for a number, that of ours - published."""
    high: float | None = None
    margin: float | None = None
    verdict: Verdict = ""
    state: State = "ok"
    reason: str = ""

    def __post_init__(self) -> None:
        name = f"{self.target} {self.claim}"
        for value, known in ((self.kind, VERDICTS_OF), (self.scale, SCALES), (self.state, STATES)):
            if value not in known:
                raise ClaimError(f"{name}: {value!r} is none of {', '.join(filter(None, known))}")
        if self.verdict not in VERDICTS_OF[self.kind]:
            article = "an" if self.kind == "arithmetic" else "a"
            raise ClaimError(f"{name}: {article} {self.kind} claim cannot have the verdict {self.verdict!r}")
        if self.claim == STAND_IN and (self.verdict or self.published):
            raise ClaimError(f"{name}: a stand-in is neither judged nor set beside a published value")
        if self.scale != SCALE_OF.get(self.verdict, self.scale):
            raise ClaimError(f"{name}: {self.verdict!r} is reserved for scale {SCALE_OF[self.verdict]!r}")
        if self.state == "missing" and not self.reason.startswith(MISSING):
            raise ClaimError(f"{name}: the reason of a missing state begins with one of {', '.join(MISSING)}")
        if self.state != "ok" and not self.reason:
            raise ClaimError(f"{name}: state {self.state!r} without a reason")
        for column in ("ours", "sd", "low", "high", "margin"):
            number = getattr(self, column)
            if number is not None and not math.isfinite(number):
                raise ClaimError(f"{name}: {column} is {number}")


@dataclass(frozen=True)
class Rollup:
    """How many rows have each verdict and each state. Nothing is left out, so no worse one is hidden."""

    verdicts: Mapping[Verdict, int]
    states: Mapping[State, int]

    def __str__(self) -> str:
        verdicts = [f"{n} {verdict or 'without a verdict'}" for verdict, n in self.verdicts.items()]
        states = [f"{n} {state}" for state, n in self.states.items()]
        return f"{', '.join(verdicts)}; {', '.join(states)}" if states else "no claims"


def rollup(rows: Iterable[Row]) -> Rollup:
    """Count verdicts and states, best first.

    >>> a = Row(target="t", claim="c", kind="pattern", verdict="holds")
    >>> b = Row(target="t", claim="d", kind="number", state="missing", reason="data: not here")
    >>> print(rollup([a, b, a]))
    2 holds, 1 without a verdict; 2 ok, 1 missing
    """
    rows = list(rows)
    verdicts, states = Counter(row.verdict for row in rows), Counter(row.state for row in rows)
    return Rollup({v: verdicts[v] for v in VERDICTS if verdicts[v]}, {s: states[s] for s in STATES if states[s]})


def is_worse(now: tuple[Verdict, State], before: tuple[Verdict, State]) -> bool:
    """Whether verdict or state got worse: neither can make up for the other.

    >>> is_worse(("holds", "stale"), ("inconclusive", "ok")), is_worse(("holds", "ok"), ("inconclusive", "ok"))
    (True, False)
    """
    return VERDICTS.index(now[0]) > VERDICTS.index(before[0]) or STATES.index(now[1]) > STATES.index(before[1])


class Judged(NamedTuple):
    """What a rule found: the verdict, and the numbers that it was read from (`None` where there are none)."""

    verdict: Verdict
    ours: float | None = None
    """Pattern: theta of the binding contrast. Number: the mean. Arithmetic: the nearest derivable value."""
    theta: float | None = None
    """What the interval is about. Pattern: theta of the binding contrast. Number and arithmetic: the difference."""
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    n: int | None = None
    sd: float | None = None
    contrast: str = ""
    """Label of the binding contrast of a pattern."""

    def once(self, complete: bool) -> Judged:
        """Itself; without its verdict as long as the evidence is not complete (`Evidence.complete`)."""
        return self if complete else self._replace(verdict="")

    def columns(self) -> dict[str, float | int | str | None]:
        """The columns of a `Row` that come from the judgement: `Row(target=..., ..., **judged.columns())`."""
        return {name: getattr(self, name) for name in ("ours", "sd", "n", "low", "high", "margin", "verdict")}


# Arithmetic


def judge_arithmetic(printed: Printed, low: Fraction | None, high: Fraction | None) -> Judged:
    """Whether a printed number follows from others, which allow the closed interval from `low` to `high`.

    `consistent` iff [D - h, D + h] meets [low, high] (`None`: unbounded), else `disputed`. All in exact rationals.
    `ours` is the value nearest to D, of as many decimals, that would be consistent; `theta` = D - `ours`.
    Raises `ClaimError` when `low` > `high`.

    >>> judge_arithmetic(Printed("1.2", 1), Fraction("1.42"), Fraction("1.61"))[:3]
    ('disputed', 1.4, -0.2)
    """
    if low is not None and high is not None and low > high:
        raise ClaimError(f"the allowed interval is empty: {float(low)} to {float(high)}")
    step = 2 * printed.h
    nearest = printed.value
    if low is not None and printed.high < low:
        nearest = math.ceil((low - printed.h) / step) * step
    elif high is not None and printed.low > high:
        nearest = math.floor((high + printed.h) / step) * step
    return Judged(
        "consistent" if nearest == printed.value else "disputed",
        ours=float(nearest),
        theta=float(printed.value - nearest),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
    )


# Patterns

Place = tuple[str, str]
"""Row and column of a table-like object."""


@dataclass(frozen=True)
class Contrast:
    """One linear comparison of cells, theta = sum of coefficient * cell - offset, and what is claimed of it.

    `relation` is `above` (theta > margin) or `within` (|theta| < margin). Coefficients, offset and margin are taken
    as the decimal numbers that they are written as: .1 means exactly one tenth.
    Raises `ClaimError` without terms, and for `within` with a margin that is not positive.

    >>> Contrast("8 bits over 2", {("joint", "8"): 1, ("joint", "2"): -1}, "above", margin=.5).relation
    'above'
    """

    label: str
    terms: Mapping[Place, float]
    relation: Literal["above", "within"]
    margin: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.relation not in ("above", "within"):
            raise ClaimError(f"{self.label}: relation {self.relation!r} is neither 'above' nor 'within'")
        if not self.terms:
            raise ClaimError(f"{self.label}: no terms")
        if self.relation == "within" and not self.margin > 0:
            raise ClaimError(f"{self.label}: 'within' needs a positive margin")


@dataclass(frozen=True)
class Pattern:
    """A predicate over a table-like object: all of its contrasts together."""

    name: str
    statement: str
    """The claim in one sentence."""
    contrasts: tuple[Contrast, ...]

    def __post_init__(self) -> None:
        if not self.contrasts:
            raise ClaimError(f"{self.name}: no contrasts")


def judge_contrast(contrast: Contrast, low: float | Fraction, high: float | Fraction) -> Verdict:
    """The verdict that the closed interval from `low` to `high` for theta gives, with margin m.

    above:  `holds` iff low > m, `fails` iff high < m;
    within: `holds` iff the interval lies inside the open interval (-m, m), `fails` iff the two are disjoint;
    else `inconclusive`.

    >>> c = Contrast("a over b", {("a", "x"): 1, ("b", "x"): -1}, "above", margin=1)
    >>> judge_contrast(c, 1.1, 3), judge_contrast(c, 1, 3), judge_contrast(c, -1, .9)
    ('holds', 'inconclusive', 'fails')
    """
    m = _exact(contrast.margin)
    if contrast.relation == "above":
        return "holds" if low > m else "fails" if high < m else "inconclusive"
    return "holds" if -m < low and high < m else "fails" if low >= m or high <= -m else "inconclusive"


def judge_print(pattern: Pattern, cells: Mapping[Place, Printed]) -> Judged:
    """The pattern on the print. Every cell stands for its rounding interval, so theta lies in
    sum of coefficient * cell - offset -+ sum of |coefficient| * h, in exact rationals. Raises `KeyError` for a cell
    that is not there.

    >>> gap = Contrast("gap", {("a", "x"): 1, ("b", "x"): -1}, "above")
    >>> cells = {("a", "x"): Printed("1.2", 1), ("b", "x"): Printed("1.1", 1)}
    >>> judge_print(Pattern("p", "a is above b.", (gap,)), cells)[:5]
    ('inconclusive', 0.1, 0.1, 0.0, 0.2)
    """

    def judge(contrast: Contrast) -> tuple[Judged, float]:
        theta, half = -_exact(contrast.offset), Fraction(0)
        for place, coefficient in contrast.terms.items():
            theta += _exact(coefficient) * cells[place].value
            half += abs(_exact(coefficient)) * cells[place].h
        low, high = theta - half, theta + half
        verdict = judge_contrast(contrast, low, high)
        judged = Judged(
            verdict, float(theta), float(theta), float(low), float(high), contrast.margin, contrast=contrast.label
        )
        return judged, _slack(contrast, low, high)

    return _together(pattern, judge)


def judge_interval(contrast: Contrast, found: Interval | None) -> Judged:
    """A contrast on the interval of ours: `inconclusive` without one, no verdict without an estimate.

    >>> gap = Contrast("gap", {("a", "x"): 1, ("b", "x"): -1}, "above", margin=.5)
    >>> judge_interval(gap, Interval(0.9, 0.6, 1.2, 0.1, 3)).verdict, judge_interval(gap, None).verdict
    ('holds', '')
    """
    if found is None:
        return Judged("", margin=contrast.margin, n=0)
    theta, low, high, sd, n = found
    verdict = "inconclusive" if low is None or high is None else judge_contrast(contrast, low, high)
    return Judged(verdict, theta, theta, low, high, contrast.margin, n, sd)


def judge_seeds(pattern: Pattern, cells: Mapping[Place, Mapping[int, float]]) -> Judged:
    """The pattern on our runs: theta of each seed that all terms of a contrast share, and the two-sided 95 % t
    interval of its mean. Pairing by seed takes out what the arms of one seed have in common.

    The pattern is an intersection-union test: it `holds` iff all contrasts hold, each at its own .95, and needs no
    correction for their number. It `fails` iff any contrast fails; that is not corrected, so that of k contrasts
    one fails by chance with a probability of up to k * 2.5 %. A single seed is `inconclusive`; no verdict (empty)
    where some contrast has no seed.

    >>> gap = Contrast("gap", {("a", "x"): 1, ("b", "x"): -1}, "above", margin=.5)
    >>> ours = {("a", "x"): {0: 3.0, 1: 3.5, 2: 4.0}, ("b", "x"): {0: 1.0, 1: 1.5, 2: 2.0, 3: 0.0}}
    >>> judge_seeds(Pattern("p", "a is above b.", (gap,)), ours)[:8]
    ('holds', 2.0, 2.0, 2.0, 2.0, 0.5, 3, 0.0)
    """

    def judge(contrast: Contrast) -> tuple[Judged, float]:
        arms = [(coefficient, cells.get(place, {})) for place, coefficient in contrast.terms.items()]
        seeds = sorted(set.intersection(*(set(arm) for _, arm in arms)))
        if not seeds:
            return Judged("", margin=contrast.margin, n=0, contrast=contrast.label), 0.0
        thetas = [math.fsum(c * arm[seed] for c, arm in arms) - contrast.offset for seed in seeds]
        found = t_interval(thetas)
        theta, low, high, *_ = found
        slack = _slack(contrast, theta, theta) if low is None or high is None else _slack(contrast, low, high)
        return judge_interval(contrast, found)._replace(contrast=contrast.label), slack

    return _together(pattern, judge)


def _together(pattern: Pattern, judge: Callable[[Contrast], tuple[Judged, float]]) -> Judged:
    """The judgement of the binding contrast: of those with the worst verdict, the one nearest to a worse one."""
    order = ("", "fails", "inconclusive", "holds")
    return min(map(judge, pattern.contrasts), key=lambda found: (order.index(found[0].verdict), found[1]))[0]


def _slack(contrast: Contrast, low: float | Fraction, high: float | Fraction) -> float:
    m = _exact(contrast.margin)
    return float(low - m if contrast.relation == "above" else min(low + m, m - high))


def _exact(x: float | Fraction) -> Fraction:
    return x if isinstance(x, Fraction) else Fraction(repr(x))


# Numbers


def judge_number(
    published: Printed,
    ours: Sequence[float] | Interval,
    margin: float,
    scale: str,
    published_sd: float | None = None,
    published_n: int | None = None,
) -> Judged:
    """Ours against a published value, by equivalence within `margin`.

    `ours` holds one value per seed, or is an estimate with its spread, such as `intervals.ratio_of_means` gives.
    With the interval of `intervals.equivalence_interval`: `reproduced` (at `paper` scale) or `agrees` (at `gpu`
    scale) iff it lies inside [-margin, margin], `differs` iff it is disjoint from that, else `inconclusive`. Fewer
    or noisier seeds widen the interval and so never make agreement easier. At other scales the difference is shown
    without a verdict. A single seed has no interval and is `inconclusive`.

    Raises `ValueError` for no seeds.

    >>> judge_number(Printed("2.0", 1), [1.9, 2.0, 2.1], margin=.5, scale="gpu").verdict
    'agrees'
    >>> judge_number(Printed("2.0", 1), [1.9, 2.0, 2.1], margin=.5, scale="cpu").verdict
    ''
    """
    estimate = ours if isinstance(ours, Interval) else t_interval(ours)
    theta, low, high, sd, n = equivalence_interval(
        estimate, float(published), float(published.h), published_sd, published_n
    )
    verdict: Verdict = ""
    if scale in SCALE_OF.values():
        if low is None or high is None:
            verdict = "inconclusive"
        elif -margin <= low and high <= margin:
            verdict = "reproduced" if scale == "paper" else "agrees"
        else:
            verdict = "differs" if low > margin or high < -margin else "inconclusive"
    return Judged(verdict, estimate.estimate, theta, low, high, margin, n, sd)


def equivalence_margin(printed: Iterable[Printed], at_least: float) -> float:
    """Margin M of a number claim: half the printed gap between winner and runner-up, but not less than `at_least`.

    >>> equivalence_margin([Printed("7.5", 1), Printed("3.5", 1), Printed("6.0", 1)], at_least=.5)
    0.75
    """
    runner_up, winner = sorted(cell.value for cell in printed)[-2:]
    return float(max((winner - runner_up) / 2, _exact(at_least)))
