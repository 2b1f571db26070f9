"""Runs on stand-in data: kept apart from the claims about the print, and labelled wherever they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from repro.adaptive.claims import Measured
from repro.adaptive.methods import methods
from repro.adaptive.problems import StandIn
from repro.adaptive.settings import COMMON, left_out
from repro.evidence.claims import STAND_IN, Row
from repro.evidence.collection import Evidence
from repro.evidence.intervals import mean_sd
from repro.evidence.render import markdown_table, settings_text
from repro.published import PublishedTable

StandIns = Mapping[str, StandIn]
"""By scale."""


def proper(evidence: Evidence, stand_ins: StandIns) -> Evidence:
    """The evidence without the scales that run on stand-in data."""
    return evidence.where(lambda scale: scale not in stand_ins)


def rows(printed: PublishedTable, evidence: Evidence, stand_ins: StandIns) -> list[Row]:
    """The accuracies of stand-in runs, beside nothing published and without a verdict."""
    return [row for runs, stand_in in _measured(printed, evidence, stand_ins) for row in _rows(runs, stand_in)]


def _measured(printed: PublishedTable, evidence: Evidence, stand_ins: StandIns) -> Iterator[tuple[Measured, StandIn]]:
    for scale in evidence.scales:
        if scale in stand_ins:
            yield Measured(printed, evidence, scale), stand_ins[scale]


def _rows(runs: Measured, stand_in: StandIn) -> Iterator[Row]:
    for method in runs.printed.methods:
        state, reason = runs.state(method)
        for bits in runs.printed.bits:
            values = list(runs.accuracy(method, bits).values())
            mean, sd = mean_sd(values) if values else (None, None)
            yield Row(
                target=runs.printed.target,
                claim=STAND_IN,
                kind="number",
                scale=runs.scale,
                row=method,
                column=str(bits),
                ours=mean,
                sd=sd,
                n=len(values),
                state=state,
                reason="; ".join(filter(None, (reason, f"stand-in: {stand_in.words}; no evidence for the print"))),
            )


def sections(title: str, printed: PublishedTable, sources: Mapping[str, Evidence], stand_ins: StandIns) -> str:
    """A section of the page for the stand-in runs of each source: what they are, and their accuracies on their own."""
    return "".join(
        _section(title, name, runs, stand_in)
        for name, evidence in sources.items()
        for runs, stand_in in _measured(printed, evidence, stand_ins)
    )


def _section(title: str, name: str, runs: Measured, stand_in: StandIn) -> str:
    header = ("method (stand-in)", *(f"{bits} bit" for bits in runs.printed.bits))
    lines = []
    for method in methods().values():
        cells = [list(runs.accuracy(method, bits).values()) for bits in runs.printed.bits]
        if any(cells) or not method.origin:
            shown = [f"{sum(values) / len(values):.1f}" if values else "–" for values in cells]
            lines.append((method.title, *shown))
    return (
        f"\n## Stand-in, {f'{name} {runs.scale}'.strip()}: {stand_in.words}\n\n"
        f"Not {title}, and no evidence for it: other data stand in, to prove that the pipeline runs. Top-1 accuracy in "
        f"percent. {settings_text(runs.records, left_out((*stand_in.problem.settings, *COMMON)))}.\n\n"
        f"{markdown_table(header, lines, 'l' + 'r' * len(runs.printed.bits))}"
    )
