"""A race as a benchmark; at the end of a run, the table, the promised ratios, and the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.benchmarks import peers, report
from tests.benchmarks.race import Clock, Contender, Race

SECONDS = 3.0
"""A race takes about this long, warm-up apart."""

_found: list[report.Row] = []


@pytest.fixture
def race(benchmark: Any) -> Callable[..., list[report.Row]]:
    """`race(operation, data, contenders, base="fused", ...)` times them in turn, as one benchmark: a round of all.

    Other keywords are those of `Race` and `report.rows`.
    """

    def run(
        operation: str,
        data: str,
        contenders: dict[str, Contender],
        *,
        base: str = "fused",
        seconds: float = SECONDS,
        clock: Clock | None = None,
        **more: Any,
    ) -> list[report.Row]:
        started = Race(contenders, clock)
        benchmark.pedantic(started.round, rounds=started.rounds_for(seconds))
        rows = report.rows(started, operation, data, base=base, **more)
        benchmark.extra_info["rows"] = [f"{row.backend}: {row.ms} ms" for row in rows]
        _found.extend(rows)
        report.merge(rows)  # at once: a run that is broken off has not been for nothing
        return rows

    return run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _found:
        return
    merged = report.merge([])
    report.page(merged, report.machine())
    write = terminalreporter.write_line
    write("")
    for line in [*report.table(_found).splitlines(), "", *report.promises(merged, report.machine()).splitlines()]:
        write(line)
    if peers.NO_BREVITAS:
        write(f"Not compared: {peers.NO_BREVITAS}")
    write(f"Recorded in {report.stem(report.machine()).with_suffix('.json')}")
