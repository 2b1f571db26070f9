"""Moving this machine's finished records into the committed evidence, and rendering from that alone."""

from __future__ import annotations

from collections.abc import Callable

from repro import status, workspace
from repro.errors import ReproError
from repro.evidence.claims import SMOKE
from repro.evidence.collection import Evidence
from repro.evidence.files import write_text
from repro.evidence.records import Record
from repro.places import Places, gather
from repro.progress import label
from repro.runner import key
from repro.targets import Target, Unit, planned


def accept(places: Places, target: Target, say: Callable[[str], None], scale: str | None = None) -> None:
    """Move the records of `scale`, by default of every scale run here, render, and renew the README's tables.

    Committed records of these scales that the target plans no more are deleted, even where nothing has taken their
    place yet.
    `smoke` runs prove the pipeline and are accepted only when asked for. A scale may be unfinished: what it lacks is
    said, and shows as missing. Raises `ReproError`, having moved nothing, where the scale asked for has no record at
    all, a record is of uncommitted code or another start than committed ones have, or a committed one cannot be used.
    """
    local, committed = places.local, places.committed(target)
    if damaged := committed.read(target.name)[1]:
        raise ReproError(f"{damaged[0]}; {damaged[0].remedy}")
    here, there = gather(target, local), gather(target, committed)
    scales = [scale] if scale else [each for each in target.scales if each != SMOKE and _current(here, each)]
    moved = {each: _current(here, each) for each in scales}
    if scale and not (moved[scale] or _current(there, scale)):
        remedy = f"python -m repro {target.name} --scale {scale}"
        raise ReproError(f"{target.name} {scale}: nothing of it is recorded; first {remedy}")
    _check(_all(moved))
    for each in scales:
        units, kept = planned(target, each), _current(there, each)
        _check_whole(places, units)
        _check_starts(units, moved[each], kept)
        lacking = [unit for unit in units if key(unit) not in moved[each] | kept]
        if lacking:
            say(f"{target.name} {each}: {len(lacking)} units still lack a record, first {label(lacking[0])}")
    for record in _all(moved):
        committed.write(record)
    for record in _outdated(gather(target, committed), scales):
        committed.forget(record)
        say(f"{record.key} removed: {target.name} does not plan it any more")
    rendered = target.render(gather(target, committed), places.renders(target))
    for record in _all(moved):
        local.forget(record)
    refresh_readme(places)
    say(f"{target.name}: {len(_all(moved))} records accepted, {len(rendered)} files in {places.renders(target).name}/")


def refresh_readme(places: Places) -> None:
    """Write today's tables into the README."""
    write_text(places.readme, status.renewed(places.readme.read_text("utf-8"), status.claims(places)))


def _current(evidence: Evidence, scale: str) -> dict[str, Record]:
    """Records of a scale, by key, that are just what the target plans."""
    numerics = {(wanted.unit, wanted.seed): wanted.numerics for wanted in evidence.wanted if wanted.scale == scale}
    mine = [record for record in evidence.records if record.scale == scale]
    return {record.key: record for record in mine if record.numerics == numerics[record.unit, record.seed]}


def _check(records: list[Record]) -> None:
    for record in records:
        if record.dirty:
            remedy = "commit and run it again with --force"
            raise ReproError(f"{record.key} was made with uncommitted changes on {record.commit[:12]}; {remedy}")


def _check_whole(places: Places, units: list[Unit]) -> None:
    """A forced run that was broken off leaves old records beside new ones."""
    for unit in units:
        note = workspace.read(places.work / key(unit))
        if note and note.unfinished:
            raise ReproError(f"{key(unit)} was to run again (--force) and has not: give the same command again first")


def _check_starts(units: list[Unit], moved: dict[str, Record], kept: dict[str, Record]) -> None:
    """Units of one seed are compared because they share their start: a new one is taken with all that start from it."""
    keys = {(unit.name, unit.seed): key(unit) for unit in units}
    for unit in units:
        if key(unit) not in kept or key(unit) in moved:
            continue
        for start in (keys[name, unit.seed] for name in unit.requires):
            if start in moved and start in kept and moved[start].correct != kept[start].correct:
                raise ReproError(
                    f"{start} is another network than the committed one, which {key(unit)} started from: "
                    "run with --force all that starts from it, or remove it and these from this machine's records"
                )


def _all(moved: dict[str, dict[str, Record]]) -> list[Record]:
    return [record for records in moved.values() for record in records.values()]


def _outdated(committed: Evidence, scales: list[str]) -> list[Record]:
    kept = {key for scale in scales for key in _current(committed, scale)}
    everything = [*committed.records, *committed.others]
    return [record for record in everything if record.scale in scales and record.key not in kept]
