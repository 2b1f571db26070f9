"""Units planned and run in one call."""

from __future__ import annotations

from collections.abc import Sequence

from repro.runner import Report, Setup, execute, plan
from repro.targets import Target, Unit


def run_units(
    target: Target,
    units: Sequence[Unit],
    setup: Setup,
    *,
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Report:
    """Run what is not recorded in this machine's store."""
    return execute(plan(target, units, setup, shard=shard), setup, limit=limit)
