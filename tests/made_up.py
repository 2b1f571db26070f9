"""Records and evidence with made-up values, from memory and without torch; and what spoils a record's file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import targets
from repro.evidence.collection import Evidence
from repro.evidence.records import Damaged, Record, Store, pack
from repro.places import gather
from repro.targets import Target, Unit

SETTINGS = {"width": 16, "lr": 0.1, "augment": True, "scheme": "dorefa", "clip": None}


def record(**changes: Any) -> Record:
    """Of no target that there is, with something in every field that a record should have."""
    base: dict[str, Any] = {
        "target": "table9",
        "scale": "cpu",
        "unit": "joint_w16+bn",
        "seed": 3,
        "settings": SETTINGS,
        "numerics": 1,
        "values": {"8": 90.25, "2": 41.0},
        "unit_of_values": "% top-1",
        "best": {"8": 90.5, "2": 40.0},
        "correct": {"8": pack([i % 7 > 0 for i in range(10_000)])},
        "curve": [{"epoch": 1, "loss": 2.25, "seconds": 9.5}],
        "versions": {"python": "3.11.4"},
    }
    return Record(**(base | changes))


def record_of(unit: Unit, values: Mapping[str, float], **more: Any) -> Record:
    """As the unit would leave it that has found these values."""
    unit_of_values = targets.get(unit.target).values_unit
    return Record(
        target=unit.target, scale=unit.scale, unit=unit.name, seed=unit.seed, settings=dict(unit.settings),
        numerics=unit.numerics, values=values, unit_of_values=unit_of_values, **more,
    )  # fmt: skip


@dataclass(frozen=True)
class Kept(Store):
    """A store of which nothing is on a disk."""

    records: tuple[Record, ...]

    def read(self, target: str | None = None) -> tuple[list[Record], list[Damaged]]:
        return sorted((r for r in self.records if target in (None, r.target)), key=lambda r: r.key), []


def evidence(target: Target, records: Iterable[Record] = (), units: Sequence[Unit] | None = None) -> Evidence:
    """What these records are to a target, by default to all that it plans; without any, nothing is recorded."""
    return gather(target, Kept(Path("nowhere"), tuple(records)), units)


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
