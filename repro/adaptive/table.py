"""The target that Tables 1-4 are declarations of: units from the table of methods, rows and renders from evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from repro.adaptive import claims, layout, picture
from repro.adaptive.methods import FLOAT, OURS, Method, methods
from repro.adaptive.problems import Problem
from repro.adaptive.settings import (
    CALIBRATED,
    COMMON,
    PERCENTILE,
    RANDOM_BITS,
    SELECTED,
    SETTINGS,
    SOFT_TARGET,
    START,
    SWAPPED,
    TRAINED,
    check,
)
from repro.evidence.claims import Row
from repro.evidence.files import write_text
from repro.evidence.records import Evidence
from repro.evidence.render import write_csv
from repro.published import PublishedTable, table
from repro.targets import Context, Outcome, Scalar, Unit

NUMERICS = 1
"""Raised by hand when the code changes what a unit computes."""


@dataclass(frozen=True)
class AdaptiveTable:
    """One of Tables 1-4 as a target; see `repro.targets.Target`.

    Attributes:
        name: `table1` .. `table4`, which names its printed numbers too.
        problem: its network and data; None where nothing is trained yet.
        changes: of the settings' defaults, by scale.
        seeds: their number, by scale.
        ours: scales at which the rows that are ours are run too, after all that are printed.
    """

    name: str
    title: str
    problem: Problem | None = None
    changes: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    ours: tuple[str, ...] = ()
    kind: str = "table"
    artefact: str = "network.pt"
    values_unit: str = "% top-1"

    @property
    def needs(self) -> tuple[str, ...]:
        return self.problem.data.needs if self.problem else ()

    @cached_property
    def scales(self) -> Mapping[str, Mapping[str, Scalar]]:
        """All settings of each scale: those of every table, of the network and of the data."""
        own = self.problem.settings if self.problem else ()
        defaults = {name: SETTINGS[name].default for name in (*own, *COMMON)}
        return {scale: {**defaults, **changed} for scale, changed in self.changes.items()}

    @cached_property
    def published(self) -> PublishedTable:
        return table(self.name)

    def units(self, scale: str, seeds: int, settings: Mapping[str, Scalar]) -> list[Unit]:
        check(settings)
        rows = [row for row in methods().values() if row.origin != OURS or scale in self.ours]
        printed = {FLOAT, *(unit for row in rows if not row.origin for unit, _ in row.units())}
        units = [unit for seed in range(seeds) for unit in self._units_of_seed(scale, seed, settings, rows)]
        return sorted(units, key=lambda unit: unit.name not in printed)

    def _units_of_seed(
        self, scale: str, seed: int, settings: Mapping[str, Scalar], rows: Sequence[Method]
    ) -> list[Unit]:
        assert self.problem is not None
        float_settings = {name: settings[name] for name in (*self.problem.settings, *START)}
        start = Unit(self.name, scale, FLOAT, seed, float_settings, NUMERICS)
        units = {FLOAT: start}
        for method in rows:
            for name, _ in method.units():
                assert method.recipe is not None
                own = {key: settings[key] for key in _own_settings(method)}
                before = units[method.recipe.start]
                units[name] = Unit(
                    self.name, scale, name, seed, {**before.settings, **own}, NUMERICS, (before.name,)
                )  # fmt: skip
        return list(units.values())

    def run(self, unit: Unit, context: Context) -> Outcome:
        from repro.adaptive.experiment import run

        assert self.problem is not None
        return run(unit, context, self.problem)

    def rows(self, evidence: Evidence) -> list[Row]:
        return claims.rows(self.published, evidence, tuple(self.scales))

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        rows = self.rows(evidence)
        csv, markdown = folder / f"{self.name}.csv", folder / f"{self.name}.md"
        write_csv(rows, csv)
        write_text(markdown, layout.page(self.title, self.published, {"": evidence}, rows))
        if not evidence.records:
            return [csv, markdown]
        return [csv, markdown, *picture.draw(self.title, self.published, evidence, folder / self.name)]

    def summary(self, committed: Evidence, local: Evidence) -> str:
        sources = {"committed": committed, "this machine": local}
        return layout.page(self.title, self.published, sources, self.rows(committed))


def _own_settings(method: Method) -> Iterator[str]:
    """Settings that a method depends on beside those of its start."""
    recipe = method.recipe
    assert recipe is not None
    groups = {
        TRAINED: recipe.trained,
        SOFT_TARGET: recipe.soft_target is not None,
        SELECTED: recipe.soft_target == "selected",
        SWAPPED: recipe.swapped,
        RANDOM_BITS: recipe.random_bits,
        PERCENTILE: recipe.clip == "percentile",
        CALIBRATED: recipe.batch_norm == "calibrated",
    }
    return (name for group, wanted in groups.items() if wanted for name in group)
