"""Units planned and run in one call."""

from __future__ import annotations

from collections.abc import Sequence

from repro.evidence.records import Store
from repro.runner import Report, Setup, execute, plan
from repro.targets import Target, Unit


def run_units(
    target: Target,
    units: Sequence[Unit],
    setup: Setup,
    *,
    stores: Sequence[Store] = (),
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Report:
    """Run what is recorded neither in this machine's store nor in `stores`."""
    return execute(plan(target, units, setup, stores, shard), setup, limit=limit)
