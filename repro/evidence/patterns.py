"""Patterns as the preregistration writes them, and as rows where nothing is printed that they could be judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from repro.evidence.claims import RUN_SCALES, Contrast, Judged, Pattern, Place, Row, State, judge_seeds
from repro.evidence.collection import Evidence
from repro.evidence.intervals import pairing
from repro.evidence.render import markdown_table, number

BINDING = "binding contrast: "
"""Begins the reason of a judged pattern."""

Cell = Callable[[str, str, str], Mapping[int, float]]
"""Values by seed of (scale, row, column)."""


def patterns(preregistered: Mapping[str, Any]) -> list[Pattern]:
    """The patterns of a target's section of the preregistration.

    >>> section = {"name": "p", "statement": "A beats B.", "contrasts": ["a@8 - b@8"], "relation": "above", "margin": 1}
    >>> patterns({"patterns": [section]})[0].contrasts[0].terms
    {('a', '8'): 1, ('b', '8'): -1}
    """
    return [
        Pattern(
            section["name"],
            section["statement"],
            tuple(
                Contrast(text, _terms(text), section["relation"], section["margin"], section.get("offset", 0))
                for text in section["contrasts"]
            ),
        )
        for section in preregistered.get("patterns", ())
    ]


def _terms(text: str) -> dict[Place, float]:
    """Cells of a contrast `row@column` or `row@column - row@column` with their coefficients."""
    coefficients: dict[Place, float] = {}
    places = text.split(" - ")
    if len(places) > 2:
        raise ValueError(f"contrast {text!r}: give one cell, or two with a minus between")
    for sign, place in zip((1, -1), places, strict=False):
        row, column = place.split("@")
        coefficients[row, column] = sign
    return coefficients


def pattern_rows(
    evidence: Evidence,
    cell: Cell,
    default: str,
    units: Callable[[str], Sequence[str]] = lambda row: (row,),
) -> list[Row]:
    """Every preregistered pattern, judged at each of `Evidence.judged_scales(default)`.

    `units(row)` are those that the row of a contrast's cell is measured by, by default one of the same name; the state
    is the worst of theirs, and there is no verdict before they are complete.
    """
    return [
        _row(pattern, evidence, cell, scale, units)
        for scale in evidence.judged_scales(default)
        for pattern in patterns(evidence.preregistered)
    ]


def _row(pattern: Pattern, evidence: Evidence, cell: Cell, scale: str, units: Callable[[str], Sequence[str]]) -> Row:
    places = sorted({place for contrast in pattern.contrasts for place in contrast.terms})
    judged = judge_seeds(pattern, {place: cell(scale, *place) for place in places})
    measured = [unit for row, _ in places for unit in units(row)]
    judged = judged.once(evidence.complete(scale, measured))
    state, reason = evidence.worst(scale, measured)
    return pattern_row(evidence.target, pattern.name, judged, scale, state, reason)


def pattern_row(
    target: str, claim: str, judged: Judged, scale: str, state: State = "ok", reason: str = "", **more: str
) -> Row:
    """A judged pattern as a row, with `more` columns of text; the reason names the binding contrast where it is ok."""
    return Row(
        target=target,
        claim=claim,
        kind="pattern",
        scale=scale,
        state=state,
        reason=reason or (f"{BINDING}{judged.contrast}" if judged.contrast else ""),
        **more,  # type: ignore[arg-type]
        **judged.columns(),  # type: ignore[arg-type]
    )


def pattern_table(rows: Sequence[Row], preregistered: Mapping[str, Any], cell: Cell) -> str:
    """Judged patterns as a Markdown table: statement, binding contrast with its interval, verdict and state.

    Pairing by seed is measured: for a difference of two cells, their correlation over seeds, and Var(difference) /
    (sum of their variances), which is 1 where pairing does nothing.
    """
    statements = {pattern.name: pattern.statement for pattern in patterns(preregistered)}
    offsets = {contrast.label: contrast.offset for pattern in patterns(preregistered) for contrast in pattern.contrasts}
    header = (
        "claim", "scale", "binding contrast", "value", "95 % interval", "margin", "n", "correlation", "variance ratio",
        "verdict", "state",
    )  # fmt: skip
    lines, last = [], ""
    for row in rows:
        binding = row.reason.removeprefix(BINDING) if row.state == "ok" else ""
        lines.append(
            (
                statements[row.claim] if row.claim != last else "",
                row.scale,
                f"{binding} - {offsets[binding]:g}" if offsets.get(binding) else binding,
                number(row.ours, 4),
                "" if row.low is None else f"{number(row.low, 4)} to {number(row.high, 4)}",
                number(row.margin),
                number(row.n),
                *_pairing(row.scale, binding, cell),
                row.verdict,
                row.state if row.state == "ok" else f"{row.state} ({row.reason})",
            )
        )
        last = row.claim
    return markdown_table(header, lines, "lllrrrrrrll")


def _pairing(scale: str, contrast: str, cell: Cell) -> tuple[str, str]:
    """How the two cells of a contrast hang together over seeds: correlation and variance ratio, where there are any."""
    places = _terms(contrast) if contrast and scale in RUN_SCALES else {}
    if len(places) != 2:
        return "", ""
    found = pairing(*(cell(scale, *place) for place in places))
    return number(found.correlation, 2), number(found.variance_ratio, 2)
