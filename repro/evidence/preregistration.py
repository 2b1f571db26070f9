"""What was fixed before a run: margins, families of comparisons and planned numbers of seeds, read from one TOML file.

Each target has a section of its own. One that plans `seeds` also says `study = "confirmatory"` (planned, number of
seeds fixed, test set read once) or `study = "exploratory"`; all else in it is the target's. The hash of the section
goes into every record, so that a plan changed after the run shows.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from repro.evidence.canonical import short_digest

STUDIES = ("confirmatory", "exploratory")


class PreregistrationError(ValueError):
    """A preregistration that cannot be used: one line that names file, section and reason."""


def preregistered(path: Path, target: str) -> tuple[dict[str, Any], str]:
    """The target's section and its hash; an empty one and its hash where the file has no such section.

    The hash is that of the content: comments, blanks and order of the file do not matter, nor do other sections.
    Raises `PreregistrationError` when the file is not TOML or a section with `seeds` is not marked as one of
    `STUDIES`; `OSError` when it cannot be read.
    """
    try:
        section = tomllib.loads(path.read_text("utf-8")).get(target, {})
    except ValueError as error:
        raise PreregistrationError(f"{path.name}: not TOML: {error}") from None
    if not isinstance(section, dict):
        raise PreregistrationError(f"{path.name}: {target} is not a section")
    if ("seeds" in section or "study" in section) and section.get("study") not in STUDIES:
        raise PreregistrationError(f"{path.name}, section {target}: study is none of {', '.join(STUDIES)}")
    try:
        return section, section_hash(section)
    except (TypeError, ValueError):
        raise PreregistrationError(f"{path.name}, section {target}: a date or a number that is not finite") from None


def section_hash(section: dict[str, Any]) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the section's canonical JSON."""
    return short_digest(section)
