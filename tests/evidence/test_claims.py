"""The rules of evidence: closed lists, and the verdict that each kind of claim gets."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.evidence.claims import (
    SCALES,
    STATES,
    VERDICTS,
    VERDICTS_OF,
    ClaimError,
    Contrast,
    Pattern,
    Row,
    equivalence_margin,
    is_worse,
    judge_arithmetic,
    judge_contrast,
    judge_number,
    judge_print,
    judge_seeds,
    rollup,
)
from repro.evidence.intervals import Interval, t_interval
from repro.published import Printed


def row(**changes: Any) -> Row:
    return Row(**({"target": "table9", "claim": "c", "kind": "pattern"} | changes))


# Closed lists


def test_the_closed_lists() -> None:
    assert {*VERDICTS} == {
        "",
        "consistent",
        "disputed",
        "holds",
        "fails",
        "inconclusive",
        "agrees",
        "reproduced",
        "differs",
    }
    assert {*STATES} == {"ok", "missing", "stale", "error"}
    assert {*VERDICTS} == frozenset().union(*VERDICTS_OF.values())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "guess"}, "'guess' is none of arithmetic, pattern, number"),
        ({"scale": "big"}, "'big' is none of print, smoke, cpu, gpu, paper"),
        ({"state": "late", "reason": "x"}, "'late' is none of ok, stale, missing, error"),
        ({"verdict": "true"}, "a pattern claim cannot have the verdict 'true'"),
        ({"verdict": "consistent"}, "a pattern claim cannot have the verdict 'consistent'"),
        ({"kind": "number", "verdict": "holds"}, "a number claim cannot have the verdict 'holds'"),
        ({"kind": "arithmetic", "verdict": "inconclusive"}, "an arithmetic claim cannot have the verdict"),
        ({"state": "missing", "reason": "lost"}, "begins with one of data, compute, not built"),
        ({"state": "missing"}, "begins with one of data, compute, not built"),
        ({"state": "stale"}, "state 'stale' without a reason"),
        ({"ours": float("nan")}, "ours is nan"),
        ({"high": float("inf")}, "high is inf"),
    ],
)
def test_a_row_outside_the_lists_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ClaimError) as error:
        row(**changes)
    assert reason in str(error.value)
    assert str(error.value).startswith("table9 c: ")


@pytest.mark.parametrize(("verdict", "scale"), [("reproduced", "paper"), ("agrees", "gpu")])
def test_reproduced_is_reserved_for_paper_scale_and_agrees_for_gpu(verdict: Any, scale: str) -> None:
    assert row(kind="number", verdict=verdict, scale=scale).verdict == verdict
    for other in {*SCALES} - {scale}:
        with pytest.raises(ClaimError, match=f"'{verdict}' is reserved for scale '{scale}'"):
            row(kind="number", verdict=verdict, scale=other)


# Roll-up


def test_no_rollup_hides_a_worse_one() -> None:
    rows = [row(verdict="holds")] * 40 + [row(verdict="fails"), row(state="error", reason="x")]
    found = rollup(rows)
    assert found.verdicts == {"holds": 40, "": 1, "fails": 1}
    assert found.states == {"ok": 41, "error": 1}
    assert str(found) == "40 holds, 1 without a verdict, 1 fails; 41 ok, 1 error"


def test_the_rollup_of_nothing() -> None:
    assert str(rollup([])) == "no claims"


def test_a_worse_state_is_worse_whatever_the_verdict() -> None:
    for verdict in VERDICTS:
        assert is_worse((verdict, "missing"), ("disputed", "ok"))
        assert not is_worse((verdict, "ok"), (verdict, "ok"))
    assert is_worse(("agrees", "ok"), ("reproduced", "ok"))
    assert is_worse(("", "ok"), ("holds", "ok"))


# Arithmetic


@pytest.mark.parametrize(
    ("low", "high", "verdict", "nearest"),
    [
        ("2.0", "2.1", "consistent", 2.0),
        ("2.05", "2.4", "consistent", 2.0),  # touches the closed interval [1.95, 2.05]
        ("2.050001", "2.4", "disputed", 2.1),
        ("2.15", "2.4", "disputed", 2.1),  # 2.1 stands for [2.05, 2.15], which it touches
        ("2.1500001", "2.1500002", "disputed", 2.2),
        ("1.0", "1.95", "consistent", 2.0),
        ("1.0", "1.949", "disputed", 1.9),
        (None, "1.5", "disputed", 1.5),
        ("2.5", None, "disputed", 2.5),
        (None, None, "consistent", 2.0),
    ],
)
def test_arithmetic_is_consistent_iff_the_rounding_interval_meets_what_is_allowed(
    low: str | None, high: str | None, verdict: str, nearest: float
) -> None:
    bounds = (None if bound is None else Fraction(bound) for bound in (low, high))
    judged = judge_arithmetic(Printed("2.0", 1), *bounds)
    assert judged.verdict == verdict
    if low != "2.5" and high != "1.5":  # there the nearest derivable value is half a digit away
        assert judged.ours == nearest
    assert judged.theta == pytest.approx(2.0 - judged.ours)


@given(st.integers(0, 300), st.fractions(0, 3), st.fractions(0, 1))
def test_the_nearest_derivable_value_is_derivable_and_nearest(tenths: int, low: Fraction, length: Fraction) -> None:
    def consistent(tenths: int) -> bool:
        return judge_arithmetic(Printed(f"{tenths / 100:.2f}", 2), low, low + length).verdict == "consistent"

    ours = judge_arithmetic(Printed(f"{tenths / 100:.2f}", 2), low, low + length).ours
    assert ours is not None
    nearest = round(100 * ours)
    assert consistent(nearest)
    towards = (tenths > nearest) - (tenths < nearest)
    assert towards == 0 or not any(consistent(k) for k in range(nearest + towards, tenths + towards, towards))


def test_an_empty_allowance_is_refused() -> None:
    with pytest.raises(ClaimError, match="empty"):
        judge_arithmetic(Printed("1.0", 1), Fraction(2), Fraction(1))


# Patterns

ABOVE = Contrast("a over b", {("a", "x"): 1, ("b", "x"): -1}, "above", margin=0.5)
WITHIN = Contrast("a near b", {("a", "x"): 1, ("b", "x"): -1}, "within", margin=0.5)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.6, 0.9, "holds"),
        (0.5, 0.9, "inconclusive"),  # low end must exceed the margin
        (0.1, 0.5, "inconclusive"),  # high end must stay below it
        (0.1, 0.4, "fails"),
        (-9.0, 9.0, "inconclusive"),
        (0.5, 0.5, "inconclusive"),
        (0.7, 0.7, "holds"),
    ],
)
def test_above_holds_iff_the_low_end_exceeds_the_margin(low: float, high: float, verdict: str) -> None:
    assert judge_contrast(ABOVE, low, high) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.4, 0.4, "holds"),
        (-0.5, 0.4, "inconclusive"),
        (-0.4, 0.5, "inconclusive"),
        (0.5, 0.6, "fails"),  # disjoint from the open interval
        (-0.6, -0.5, "fails"),
        (0.4, 0.6, "inconclusive"),
        (-0.6, 0.6, "inconclusive"),
        (0.1, 0.1, "holds"),
    ],
)
def test_within_holds_iff_inside_and_fails_iff_disjoint(low: float, high: float, verdict: str) -> None:
    assert judge_contrast(WITHIN, low, high) == verdict


@pytest.mark.parametrize("relation", ["above", "within"])
@given(st.floats(-2, 2), st.floats(0, 2), st.floats(0, 1))
def test_a_wider_interval_never_decides_more(relation: Any, low: float, length: float, more: float) -> None:
    contrast = Contrast("c", {("a", "x"): 1}, relation, margin=0.5)
    wide = judge_contrast(contrast, low - more, low + length + more)
    assert wide in ("inconclusive", judge_contrast(contrast, low, low + length))


def cells(**texts: str) -> dict[tuple[str, str], Printed]:
    return {(name, "x"): Printed(text, 1) for name, text in texts.items()}


def test_on_the_print_the_interval_is_that_of_rounding() -> None:
    """Hand-computed: theta = 2 * 1.0 - 3 * 0.2 - 1 = .4, half width (2 + 3) * .05 = .25."""
    contrast = Contrast("c", {("a", "x"): 2, ("b", "x"): -3}, "above", margin=0.1, offset=1)
    judged = judge_print(Pattern("p", "s", (contrast,)), cells(a="1.0", b="0.2"))
    assert judged[:6] == ("holds", 0.4, 0.4, 0.15, 0.65, 0.1)
    assert (judged.n, judged.sd, judged.contrast) == (None, None, "c")


def test_on_the_print_all_is_exact() -> None:
    """0.3 - 0.1 - 2 * .05 is exactly .1 and so not above .1; in binary arithmetic it would be below."""
    contrast = Contrast("c", {("a", "x"): 1, ("b", "x"): -1}, "above", margin=0.1)
    assert judge_print(Pattern("p", "s", (contrast,)), cells(a="0.3", b="0.1")).verdict == "inconclusive"
    contrast = Contrast("c", {("a", "x"): 1, ("b", "x"): -1}, "above", margin=0.0999)
    assert judge_print(Pattern("p", "s", (contrast,)), cells(a="0.3", b="0.1")).verdict == "holds"


def test_a_cell_that_the_print_lacks() -> None:
    with pytest.raises(KeyError):
        judge_print(Pattern("p", "s", (ABOVE,)), cells(a="1.0"))


def arms(**values: list[float]) -> dict[tuple[str, str], dict[int, float]]:
    return {(name, "x"): dict(enumerate(seeds)) for name, seeds in values.items()}


def test_on_our_runs_the_interval_is_t_over_seeds() -> None:
    """Hand-computed: differences 1, 2, 3; mean 2, sd 1, t_.975,2 = 4.30265, half width 4.30265 / sqrt 3 = 2.48414."""
    judged = judge_seeds(Pattern("p", "s", (ABOVE,)), arms(a=[2.0, 4.0, 6.0], b=[1.0, 2.0, 3.0]))
    assert (judged.verdict, judged.theta, judged.sd, judged.n) == ("inconclusive", 2.0, 1.0, 3)
    assert judged.low == pytest.approx(2 - 2.48414, abs=1e-5)
    assert judged.high == pytest.approx(2 + 2.48414, abs=1e-5)


def test_pairing_takes_out_what_seeds_share() -> None:
    shared = [0.0, 10.0, -20.0, 5.0]
    judged = judge_seeds(Pattern("p", "s", (ABOVE,)), arms(a=[s + 1 for s in shared], b=shared))
    assert judged[:8] == ("holds", 1.0, 1.0, 1.0, 1.0, 0.5, 4, 0.0)


def test_only_seeds_that_all_terms_share_count() -> None:
    ours = {("a", "x"): {0: 9.0, 1: 2.0, 3: 2.0}, ("b", "x"): {1: 1.0, 2: 9.0, 3: 1.0}}
    assert judge_seeds(Pattern("p", "s", (ABOVE,)), ours)[:8] == ("holds", 1.0, 1.0, 1.0, 1.0, 0.5, 2, 0.0)


def test_zero_spread_gives_an_interval_of_length_zero() -> None:
    assert judge_seeds(Pattern("p", "s", (WITHIN,)), arms(a=[10.0] * 3, b=[10.0] * 3)).verdict == "holds"
    assert judge_seeds(Pattern("p", "s", (ABOVE,)), arms(a=[10.0] * 3, b=[10.0] * 3)).verdict == "fails"


def test_a_single_seed_is_inconclusive() -> None:
    judged = judge_seeds(Pattern("p", "s", (ABOVE,)), arms(a=[100.0], b=[0.0]))
    assert (judged.verdict, judged.theta, judged.low, judged.high, judged.n) == ("inconclusive", 100.0, None, None, 1)


def test_no_seed_gives_no_verdict() -> None:
    for ours in ({}, arms(a=[1.0, 2.0])):
        judged = judge_seeds(Pattern("p", "s", (ABOVE,)), ours)
        assert (judged.verdict, judged.theta, judged.n) == ("", None, 0)


@pytest.mark.parametrize(
    ("gaps", "verdict", "binding"),
    [
        ({"one": 3, "two": 2}, "holds", "two"),  # the one with least to spare
        ({"one": 3, "two": -2, "three": -5}, "fails", "three"),
        ({"one": 3, "two": 0}, "inconclusive", "two"),
        ({"one": -3, "two": 0}, "fails", "one"),
    ],
)
def test_a_pattern_holds_iff_all_hold_and_fails_iff_any_fails(
    gaps: dict[str, float], verdict: str, binding: str
) -> None:
    """An intersection-union test: seeds differ by -+.1, so each contrast is decided unless its gap is 0."""
    pattern = Pattern("p", "s", tuple(Contrast(name, {(name, "x"): 1}, "above") for name in gaps))
    ours = arms(**{name: [gap - 0.1, gap, gap + 0.1] for name, gap in gaps.items()})
    judged = judge_seeds(pattern, ours)
    assert (judged.verdict, judged.contrast) == (verdict, binding)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (({}, "above", 0.5), "no terms"),
        (({("a", "x"): 1}, "below", 0.5), "neither 'above' nor 'within'"),
        (({("a", "x"): 1}, "within", 0.0), "positive margin"),
        (({("a", "x"): 1}, "within", float("nan")), "positive margin"),
    ],
)
def test_contrasts_that_claim_nothing_are_refused(arguments: Any, reason: str) -> None:
    with pytest.raises(ClaimError, match=reason):
        Contrast("c", *arguments)


def test_a_pattern_without_contrasts_is_refused() -> None:
    with pytest.raises(ClaimError, match="no contrasts"):
        Pattern("p", "s", ())


# Numbers


@pytest.mark.parametrize(
    ("mean", "paper", "gpu"),
    [
        (10.0, "reproduced", "agrees"),
        (10.29, "reproduced", "agrees"),
        (10.31, "inconclusive", "inconclusive"),
        (10.69, "inconclusive", "inconclusive"),
        (10.71, "differs", "differs"),
        (9.29, "differs", "differs"),
    ],
)
def test_a_number_is_reproduced_iff_its_interval_lies_inside_the_margin(mean: float, paper: str, gpu: str) -> None:
    """Hand-computed: n = 4, sd chosen so that t_.95,3 * sd * sqrt(1 + 1/4) = .15; h = .05; half width .2; M = .5."""
    ours = Interval(mean, None, None, 0.15 / (2.3533634348 * 1.25**0.5), 4)
    judged = judge_number(Printed("10.0", 1), ours, 0.5, "paper")
    assert judged.verdict == paper
    assert judged.low == pytest.approx(mean - 10.2)
    assert judged.high == pytest.approx(mean - 9.8)
    assert judge_number(Printed("10.0", 1), ours, 0.5, "gpu").verdict == gpu
    for scale in ("smoke", "cpu"):
        assert judge_number(Printed("10.0", 1), ours, 0.5, scale)[1:] == judged[1:]
        assert judge_number(Printed("10.0", 1), ours, 0.5, scale).verdict == ""


@pytest.mark.parametrize(("scale", "verdict"), [("cpu", ""), ("gpu", "inconclusive"), ("paper", "inconclusive")])
def test_a_single_seed_never_agrees(scale: str, verdict: str) -> None:
    judged = judge_number(Printed("2.0", 1), [2.0], 100.0, scale)
    assert (judged.verdict, judged.ours, judged.theta) == (verdict, 2.0, 0.0)
    assert (judged.low, judged.high, judged.sd, judged.n) == (None, None, None, 1)


def test_zero_spread_leaves_the_rounding_of_the_print() -> None:
    judged = judge_number(Printed("2.0", 1), [2.0, 2.0], 0.5, "gpu")
    assert (judged.verdict, judged.low, judged.high, judged.sd) == ("agrees", -0.05, 0.05, 0.0)


def test_an_interval_that_touches_the_margin_lies_inside_and_is_not_disjoint() -> None:
    """[-M, M] is closed. h = 1/2 and no spread: all numbers are exact in binary arithmetic."""
    assert judge_number(Printed("2", 0), [2.0, 2.0], 0.5, "gpu").verdict == "agrees"
    assert judge_number(Printed("2", 0), [3.0, 3.0], 0.5, "gpu").verdict == "inconclusive"
    assert judge_number(Printed("2", 0), [1.0, 1.0], 0.5, "gpu").verdict == "inconclusive"


def test_no_seeds_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        judge_number(Printed("2.0", 1), [], 0.5, "gpu")


DECIDED = ("agrees", "differs")
counts = st.integers(2, 40)
spreads = st.floats(0, 2)
published_spreads = st.one_of(st.just((None, None)), st.tuples(st.floats(0, 2), st.integers(2, 30)))


@given(st.floats(-2, 2), spreads, spreads, counts, counts, published_spreads)
def test_fewer_or_noisier_seeds_never_make_agreement_easier(
    mean: float, s: float, more: float, n: int, fewer: int, spread: tuple[float | None, int | None]
) -> None:
    """Same mean: whatever a poorer study decides, the better one decides too. The poorer interval is the longer."""
    poor = Interval(mean, None, None, s + more, min(n, fewer))
    good = Interval(mean, None, None, s, max(n, fewer))
    of_poor, of_good = (judge_number(Printed("0.0", 1), study, 0.5, "gpu", *spread) for study in (poor, good))
    assert of_poor.high is not None
    assert of_good.high is not None
    assert of_poor.high >= of_good.high - 1e-12
    if of_poor.verdict in DECIDED:
        assert of_good.verdict == of_poor.verdict


def test_uncapped_welch_would_make_agreement_easier_with_noise() -> None:
    """Why the degrees of freedom are capped at n_p - 1: this is the case that the property above would find."""
    quiet, noisy = (
        judge_number(Printed("0.0", 1), Interval(0.0, None, None, s, 20), 1.0, "gpu", 1.0, 2) for s in (0.0, 1.0)
    )
    assert quiet.high is not None
    assert noisy.high is not None
    assert noisy.high > quiet.high


def test_agreement_is_wrong_in_at_most_five_studies_of_a_hundred() -> None:
    """The true difference is the margin itself, so that `agrees` is wrong; both print and ours vary."""
    rng = random.Random(1)
    for n in (2, 3, 10):
        wrong = 0
        for _ in range(400):
            y = rng.gauss(0, 0.1)
            print_ = Printed(f"{y:.3f}", 3)
            ours = [rng.gauss(0.5, 0.1) for _ in range(n)]
            wrong += judge_number(print_, ours, 0.5, "gpu").verdict == "agrees"
        assert wrong <= 0.05 * 400 + 3 * (0.05 * 0.95 * 400) ** 0.5


def test_the_margin_is_half_the_gap_of_winner_and_runner_up_but_at_least_the_floor() -> None:
    texts = ["3.0", "9.0", "5.2", "6.6"]
    assert equivalence_margin([Printed(text, 1) for text in texts], at_least=0.5) == 1.2
    assert equivalence_margin([Printed(text, 1) for text in texts], at_least=1.5) == 1.5


def test_judgements_fill_the_columns_of_a_row() -> None:
    judged = judge_number(Printed("2.0", 1), t_interval([1.9, 2.0, 2.1]), 0.5, "gpu")
    filled = row(kind="number", scale="gpu", **judged.columns())
    assert (filled.ours, filled.n, filled.low, filled.verdict) == (judged.ours, 3, judged.low, "agrees")
