"""Evidence: the records of one target in one store, sorted by whether they are what the target asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import Any

from repro.evidence.claims import RUN_SCALES, SMOKE, STATES, State
from repro.evidence.preregistration import section_hash
from repro.evidence.records import Damaged, Record, Store


@dataclass(frozen=True)
class Wanted:
    """A record that a target asks for at its present settings."""

    scale: str
    unit: str
    seed: int
    settings_hash: str
    numerics: int


@dataclass(frozen=True)
class Evidence:
    """What one store holds for one target: the records that match what is wanted, and what is wrong with the rest."""

    target: str
    wanted: tuple[Wanted, ...]
    records: tuple[Record, ...]
    """Those of a wanted scale, unit, seed and settings hash, sorted by scale, unit and seed."""
    others: tuple[Record, ...] = ()
    """Those that match nothing wanted, most often because their settings differ."""
    damaged: tuple[Damaged, ...] = ()
    preregistered: Mapping[str, Any] = field(default_factory=dict)
    """The target's section of the preregistration."""
    planned: tuple[Wanted, ...] = ()
    """What the target asks for where nobody asks for other settings or another number of seeds."""

    @property
    def unregistered(self) -> tuple[Record, ...]:
        """Records made under another plan than the present one: their verdicts are exploratory."""
        plan = section_hash(dict(self.preregistered))
        return tuple(record for record in self.records if record.preregistration != plan)

    def study(self, scale: str) -> str:
        """`confirmatory` or `exploratory`, as planned for the scale.

        Exploratory too where records came before the present plan, or have settings or seeds that are not planned.
        """
        if scale not in self.preregistered.get("seeds", {}):
            return "exploratory"
        planned, records = set(map(_key, self.planned)), self.at(scale)
        other = [record for record in records if _key(record) not in planned]
        earlier = [record for record in self.unregistered if record.scale == scale]
        if other:
            return f"exploratory, {len(other)} of {len(records)} records with settings or seeds that are not planned"
        if earlier:
            return f"exploratory, {len(earlier)} of {len(records)} records made under another plan than today's"
        return str(self.preregistered.get("study", "exploratory"))

    @cached_property
    def _by_unit(self) -> dict[tuple[str, str], dict[int, Record]]:
        found: dict[tuple[str, str], dict[int, Record]] = {}
        for record in self.records:
            found.setdefault((record.scale, record.unit), {})[record.seed] = record
        return found

    @property
    def scales(self) -> tuple[str, ...]:
        """Scales with any record, smallest first."""
        return tuple(scale for scale in RUN_SCALES if self.at(scale))

    def where(self, kept: Callable[[str], bool]) -> Evidence:
        """The evidence of some scales alone."""
        return replace(
            self,
            wanted=tuple(wanted for wanted in self.wanted if kept(wanted.scale)),
            records=tuple(record for record in self.records if kept(record.scale)),
            others=tuple(record for record in self.others if kept(record.scale)),
        )

    def beyond_smoke(self) -> Evidence:
        """The evidence without `smoke`, if there is any other: what is shown."""
        return self.where(lambda scale: scale != SMOKE) if set(self.scales) - {SMOKE} else self

    def at(self, scale: str) -> tuple[Record, ...]:
        """The records of one scale."""
        return tuple(record for record in self.records if record.scale == scale)

    def judged_scales(self, default: str) -> tuple[str, ...]:
        """Scales whose claims are shown: those with any record, and those that seeds are planned for; or the default.

        Smallest first.
        """
        found = {*self.scales, *self.preregistered.get("seeds", ())} or {default}
        return tuple(sorted(found, key=RUN_SCALES.index))

    def seeds(self, scale: str, unit: str) -> dict[int, Record]:
        """The unit's records by seed, in order of the seed."""
        return self._by_unit.get((scale, unit), {})

    def values(self, scale: str, unit: str, column: str) -> dict[int, float]:
        """The unit's last-epoch values in one column by seed; seeds without this column are left out."""
        return {s: r.values[column] for s, r in self.seeds(scale, unit).items() if column in r.values}

    def best(self, scale: str, unit: str, column: str) -> dict[int, float]:
        """The unit's values by the paper's own rule in one column by seed."""
        return {s: r.best[column] for s, r in self.seeds(scale, unit).items() if column in r.best}

    def state(self, scale: str, unit: str) -> tuple[State, str]:
        """State of the unit's evidence and the reason where it is not `ok`; the worst over its wanted seeds.

        `error`: the file of a wanted record is damaged. `missing`: a wanted seed has no record. `stale`: it has one,
        but made with other settings, or by code of another numerics version.
        """
        wanted = [w for w in self.wanted if (w.scale, w.unit) == (scale, unit)]
        if not wanted:
            return "missing", "not built: nothing of this name at this scale"
        names = {f"{self.target}/{w.scale}/{w.unit}.{w.seed}.{w.settings_hash}.json" for w in wanted}
        for damaged in self.damaged:
            if "/".join(damaged.path.parts[-3:]) in names:
                return "error", f"{damaged.path.name}: {damaged.reason}"
        found = self.seeds(scale, unit)
        other = {r.seed: r for r in self.others if (r.scale, r.unit) == (scale, unit)}
        if any(w.seed not in found and w.seed not in other for w in wanted):
            return "missing", f"compute: {len(found)} of {len(wanted)} seeds recorded"
        for w in wanted:
            if w.seed not in found:
                return "stale", f"seed {w.seed} was recorded with other settings ({other[w.seed].settings_hash})"
            if found[w.seed].numerics != w.numerics:
                return "stale", f"recorded at numerics {found[w.seed].numerics}, now {w.numerics}"
        return "ok", ""

    def core_seconds(self, scale: str, units: Iterable[str]) -> float:
        """Of one core for one seed of these units: the sum of their median times."""
        recorded = [self.seeds(scale, unit).values() for unit in units]
        return sum(median(record.wall_seconds for record in records) for records in recorded if records)

    def worst(self, scale: str, units: Iterable[str]) -> tuple[State, str]:
        """The worst state of several units, with its reason."""
        return max((self.state(scale, unit) for unit in units), key=lambda pair: STATES.index(pair[0]))

    def complete(self, scale: str, units: Iterable[str]) -> bool:
        """Whether a verdict may rest on these units: they are `ok`, and all seeds that are planned are there.

        The number of seeds is fixed beforehand: there is no look in between. On `smoke` none may.
        """
        if scale == SMOKE:
            return False
        names = set(units)
        planned = {(w.unit, w.seed) for w in self.planned if w.scale == scale and w.unit in names}
        found = {(unit, seed) for unit in names for seed in self.seeds(scale, unit)}
        return self.worst(scale, names)[0] == "ok" and planned <= found


def _key(asked: Wanted | Record) -> tuple[str, str, int, str]:
    return asked.scale, asked.unit, asked.seed, asked.settings_hash


def collect(
    target: str,
    wanted: Sequence[Wanted],
    store: Store,
    preregistered: Mapping[str, Any] | None = None,
    planned: Sequence[Wanted] | None = None,
) -> Evidence:
    """Read a store and sort its records of one target by whether they are wanted; what is wanted is what is planned."""
    records, damaged = store.read(target)
    keys = set(map(_key, wanted))
    records.sort(key=lambda r: (RUN_SCALES.index(r.scale), r.unit, r.seed))
    matches = [_key(record) in keys for record in records]
    return Evidence(
        target,
        tuple(wanted),
        records=tuple(r for r, match in zip(records, matches, strict=True) if match),
        others=tuple(r for r, match in zip(records, matches, strict=True) if not match),
        damaged=tuple(damaged),
        preregistered=dict(preregistered or {}),
        planned=tuple(wanted if planned is None else planned),
    )
