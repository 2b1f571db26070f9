"""The target that Tables 1-4 are declarations of: units from the table of methods, rows and renders from evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from repro.adaptive import claims, layout, picture, stand_in
from repro.adaptive.methods import FLOAT, OURS, Method, methods
from repro.adaptive.problems import Problem, StandIn
from repro.adaptive.settings import (
    ARTEFACT,
    CALIBRATED,
    COMMON,
    LOW_ALPHA,
    NEAREST,
    OPEN_CLIP,
    PERCENTILE,
    RANDOM_BITS,
    SELECTED,
    SETTINGS,
    SOFT_TARGET,
    START,
    STRUCTURE,
    SWAPPED,
    TESTED,
    TRAINED,
    check,
    left_out,
    of_unit,
)
from repro.evidence.claims import STAND_IN, Row
from repro.evidence.collection import Evidence
from repro.evidence.render import write_page
from repro.published import PublishedTable, table
from repro.targets import Context, Outcome, Scalar, Unit

NUMERICS = 1
"""Raised by hand when the code changes what a unit computes."""


@dataclass(frozen=True)
class AdaptiveTable:
    """One of Tables 1-4 as a target; see `repro.targets.Target`.

    Attributes:
        name: `table1` .. `table4`, which names its printed numbers too.
        problem: its network and data.
        changes: of the settings' defaults, by scale.
        seeds: their number, by scale.
        ours: scales at which the rows that are ours are run too, after all that are printed.
        stand_ins: scales that another problem is run at, to prove the pipeline where the data are not here.
        doc: of the module that declares it: a line, and then what is not as printed, which its page shows.
    """

    together: ClassVar[bool] = True

    name: str
    title: str
    problem: Problem
    changes: Mapping[str, Mapping[str, Scalar]]
    seeds: Mapping[str, int]
    ours: tuple[str, ...] = ()
    stand_ins: Mapping[str, StandIn] = field(default_factory=dict)
    kind: str = "table"
    artefact: str = ARTEFACT
    values_unit: str = "% top-1"
    doc: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        problems = [self.problem_at(scale) for scale in self.changes]
        return tuple(dict.fromkeys(name for problem in problems for name in problem.data.needs))

    def problem_at(self, scale: str) -> Problem:
        """The problem that is run at a scale: the table's, or one that stands in for it."""
        if scale in self.stand_ins:
            return self.stand_ins[scale].problem
        return self.problem

    def data_of(self, unit: Unit) -> Mapping[str, Mapping[str, int]]:
        return self.problem_at(unit.scale).expected(unit.settings)

    @cached_property
    def scales(self) -> Mapping[str, Mapping[str, Scalar]]:
        """All settings of each scale: those of every table, of the network and of the data."""
        return {
            scale: {name: SETTINGS[name].default for name in (*self.problem_at(scale).settings, *COMMON)}
            | dict(changed)
            for scale, changed in self.changes.items()
        }

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
        of_start = of_unit(settings, (*self.problem_at(scale).settings, *START))
        start = Unit(self.name, scale, FLOAT, seed, of_start, NUMERICS)
        units = {FLOAT: start}
        for method in rows:
            for name, _ in method.units():
                own = of_method(settings, method) | _recipe_of(method)
                before = units[method.recipe.start]
                units[name] = Unit(
                    self.name, scale, name, seed, {**before.settings, **own}, NUMERICS, (before.name,)
                )  # fmt: skip
        return list(units.values())

    def run(self, unit: Unit, context: Context) -> Outcome:
        from repro.adaptive.experiment import run

        return run(unit, context, self.problem_at(unit.scale))

    def rows(self, evidence: Evidence) -> list[Row]:
        *_, largest = (scale for scale in self.scales if scale not in self.stand_ins)
        rows = claims.rows(self.published, stand_in.proper(evidence, self.stand_ins), largest)
        return [*map(self._for_want_of_data, rows), *stand_in.rows(self.published, evidence, self.stand_ins)]

    def _for_want_of_data(self, row: Row) -> Row:
        """What is missing is missing because of the data where these have to be put there by hand."""
        if row.state != "missing" or not self.problem.data.by_hand:
            return row
        return replace(row, reason=f"data: {self.problem.data.by_hand}")

    def _shown(self, evidence: Evidence) -> Evidence:
        """What is put beside the print."""
        return stand_in.proper(evidence, self.stand_ins).beyond_smoke()

    def _page(self, sources: Mapping[str, Evidence], rows: list[Row], picture: str = "") -> str:
        own = {name: self._shown(evidence) for name, evidence in sources.items()}
        claimed = [row for row in rows if row.claim != STAND_IN]
        _, _, deviations = (self.doc or "").partition("\n\n")
        unsaid = left_out((*self.problem.settings, *COMMON))
        page = layout.page(self.title, self.published, own, claimed, unsaid, deviations.strip(), picture)
        return page + stand_in.sections(self.title, self.published, sources, self.stand_ins)

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        rows = self.rows(evidence)
        own = self._shown(evidence)
        page = self._page({"": evidence}, rows, f"{self.name}.png" if own.records else "")
        paths = write_page(self.name, rows, page, folder)
        return paths + (picture.draw(self.title, self.published, own, folder / self.name) if own.records else [])

    def summary(self, committed: Evidence, local: Evidence) -> str:
        sources = {"committed": committed, "this machine": local}
        return self._page(sources, self.rows(committed))


def _recipe_of(method: Method) -> dict[str, Scalar]:
    """Of a row of a user's, whose recipe may change under its name: what it is made of, kept with its results."""
    if method.origin in ("", OURS):
        return {}
    return {f"recipe_{name}": value for name, value in asdict(method.recipe).items()}


def of_method(settings: Mapping[str, Scalar], method: Method) -> dict[str, Scalar]:
    """Settings that a method's units keep beside those of their start; no clip levels that it has anyway."""
    own = of_unit(settings, own_settings(method))
    if own.get("clip") == method.recipe.clip:
        del own["clip"]
    return own


def own_settings(method: Method) -> Iterator[str]:
    """Settings that a method depends on beside those of its start."""
    recipe = method.recipe
    groups = {
        ("weights", *STRUCTURE): True,
        (*TRAINED, *LOW_ALPHA, *TESTED): recipe.trained,
        SOFT_TARGET: recipe.teacher is not None and recipe.soft_target,
        OPEN_CLIP: recipe.open_clip,
        NEAREST: recipe.teacher == "nearest",
        SELECTED: recipe.teacher == "selected",
        SWAPPED: recipe.swapped,
        RANDOM_BITS: recipe.random_bits,
        PERCENTILE: recipe.clip == "percentile",
        CALIBRATED: recipe.batch_norm == "calibrated",
    }
    return (name for group, wanted in groups.items() if wanted for name in group)
