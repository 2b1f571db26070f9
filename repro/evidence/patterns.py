"""Patterns as the preregistration writes them, and as rows where nothing is printed that they could be judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from repro.evidence.claims import STATES, Contrast, Pattern, Place, Row, judge_seeds
from repro.evidence.records import Evidence
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
    scales: tuple[str, ...],
    units: Callable[[str], Sequence[str]] = lambda row: (row,),
) -> list[Row]:
    """Every preregistered pattern, judged at each scale that has records, or `missing` at the last of `scales`.

    `units(row)` are those that the row of a contrast's cell is measured by, by default one of the same name; the state
    is the worst of theirs.
    """
    return [
        _row(pattern, evidence, cell, scale, units)
        for scale in evidence.scales or scales[-1:]
        for pattern in patterns(evidence.preregistered)
    ]


def _row(pattern: Pattern, evidence: Evidence, cell: Cell, scale: str, units: Callable[[str], Sequence[str]]) -> Row:
    places = sorted({place for contrast in pattern.contrasts for place in contrast.terms})
    judged = judge_seeds(pattern, {place: cell(scale, *place) for place in places})
    states = [evidence.state(scale, unit) for row, _ in places for unit in units(row)]
    state, reason = max(states, key=lambda pair: STATES.index(pair[0]))
    return Row(
        target=evidence.target,
        claim=pattern.name,
        kind="pattern",
        scale=scale,
        state=state,
        reason=reason or f"{BINDING}{judged.contrast}",
        **judged.columns(),  # type: ignore[arg-type]
    )


def pattern_table(rows: Sequence[Row], preregistered: Mapping[str, Any]) -> str:
    """Judged patterns as a Markdown table: statement, binding contrast with its interval, verdict and state."""
    statements = {pattern.name: pattern.statement for pattern in patterns(preregistered)}
    header = ("claim", "scale", "binding contrast", "value", "95 % interval", "margin", "n", "verdict", "state")
    lines = [
        (
            statements[row.claim],
            row.scale,
            row.reason.removeprefix(BINDING) if row.state == "ok" else "",
            number(row.ours, 3),
            "" if row.low is None else f"{number(row.low, 3)} to {number(row.high, 3)}",
            number(row.margin),
            number(row.n),
            row.verdict,
            row.state if row.state == "ok" else f"{row.state} ({row.reason})",
        )
        for row in rows
    ]
    return markdown_table(header, lines, "lllrrrrll")
