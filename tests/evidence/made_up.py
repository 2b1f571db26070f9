"""Records with made-up values, and what spoils their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro.evidence.records import Record, pack

SETTINGS = {"width": 16, "lr": 0.1, "augment": True, "scheme": "dorefa", "clip": None}


def record(**changes: Any) -> Record:
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


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
