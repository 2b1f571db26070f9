"""Evidence of Figure 4 with made-up values, without torch."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

from repro.evidence.collection import Evidence
from repro.evidence.records import Record
from repro.figure4 import TARGET
from repro.targets import Unit, planned
from tests import made_up
from tests.made_up import record_of

EFFECTS = {"ste": 0.0, "ewgs": 1.0, "invtanh": 0.8}
"""Points that a scaler of the weights adds in the made-up runs."""


def record(unit: Unit, effect: float = 1.0) -> Record:
    """As a unit would leave it: each scaler of the weights adds its own, seeds add theirs, and noise is small."""
    draw = random.Random(f"{unit.name} {unit.seed}")
    values = {"top1": 60.0 + unit.seed}
    if "bits" in unit.settings:
        top1 = 40.0 + unit.seed + effect * EFFECTS.get(str(unit.settings["weights"]), 0.1) + draw.gauss(0, 0.1)
        error = 0.25 - 0.01 * float(unit.settings.get("delta") or 0.0)  # type: ignore[arg-type]
        values = {"top1": top1, "top1_bn": top1 + 0.5, "weight_error": error, "oscillation": 3.0}
    return record_of(unit, values, wall_seconds=10.0)


@functools.cache
def evidence(
    scale: str | None = None, seeds: int | None = None, effect: float = 1.0, keep: Callable[[Unit], bool] = bool
) -> Evidence:
    """What would be recorded of a scale, of so many of its seeds; without a scale nothing."""
    done = [u for u in planned(TARGET, scale) if (seeds is None or u.seed < seeds) and keep(u)] if scale else []
    return made_up.evidence(TARGET, [record(unit, effect) for unit in done])
