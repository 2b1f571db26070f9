"""What a target is: one published table or figure, how its evidence is made, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from repro.errors import UsageError, suggestion

if TYPE_CHECKING:
    import numpy as np

    from repro.evidence.claims import Row
    from repro.evidence.collection import Evidence

Scalar = str | int | float | bool | None
BUILT_IN = (
    "contest", "distillation", "figure2", "figure4", "identification", "ptq", "size_latency", "table1", "table2",
    "table3", "table4",
)  # fmt: skip
ENTRY_POINTS = "repro.targets"


@dataclass(frozen=True)
class Unit:
    """One independent piece of work that ends in one record: a training or an evaluation.

    `settings` holds every named setting that can change the result of this unit, and no other; `numerics` is
    raised by hand when the code changes what the unit computes. `requires` names units of the same target, scale
    and seed whose artefact (a file in their folder) this one starts from.
    """

    target: str
    scale: str
    name: str
    seed: int
    settings: Mapping[str, Scalar]
    numerics: int
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a unit found: `values` and `best` by column (the unit is the target's), correctness of each test item."""

    values: Mapping[str, float]
    best: Mapping[str, float]
    correct: Mapping[str, np.ndarray]
    curve: Sequence[Mapping[str, float]]
    images: int
    """Images that went through the network, for the record's images per second."""


def unheard(done: int, total: int, note: str) -> None:
    """Progress that nobody is told of."""


@dataclass(frozen=True)
class Context:
    """Where and with what a unit runs. `folder` is the unit's own and survives a kill: checkpoints live there.

    `inputs` maps the name of each required unit to its folder. `progress(done, total, note)` may be called often.
    """

    folder: Path
    data_root: Path | None = None
    inputs: Mapping[str, Path] = field(default_factory=dict)
    device: str = "cpu"
    backend: str | None = None
    progress: Callable[[int, int, str], None] = unheard


class Target(Protocol):
    """The entry points every target has; `python -m repro` and the conformance test know nothing else of it.

    A target whose renders are computed by a backend of `backends` also has `with_backend(name)`: itself, on another.
    One that needs more of the machine than data has `ready(device)`, asked once before any unit: raises `ReproError`.
    One whose data depend on the scale has `data_of(unit)`: what to expect (`repro.datasets.fetch`) of each data set.
    One whose units several processes can run together (`repro.training.distributed`) has `together = True`.
    One that compares arms has `designs(evidence)`: a `repro.evidence.power.Design` for each that `plan` can size.
    """

    name: str
    title: str
    kind: str
    """`table` or `figure`: the folder (`tables/` or `figures/`) that its committed renders go to."""
    needs: tuple[str, ...]
    """Names of data sets (`python -m repro data NAME`) that running its units reads."""
    artefact: str
    """File that a finished unit leaves in its folder for those that require it."""
    values_unit: str
    """Unit of the recorded values, like `% top-1`."""
    scales: Mapping[str, Mapping[str, Scalar]]
    """Named settings at each scale that is built; empty where nothing is trained."""
    seeds: Mapping[str, int]
    """Number of seeds at each scale."""

    def units(self, scale: str, seeds: int, settings: Mapping[str, Scalar]) -> list[Unit]:
        """All units of a scale, those required before those that require them.

        `settings` are the scale's own with the user's changes; raises `UsageError` for a value that cannot be.
        """

    def run(self, unit: Unit, context: Context) -> Outcome:
        """Do one unit. Imports torch only here; resumes from `context.folder`."""

    def rows(self, evidence: Evidence) -> list[Row]:
        """Every claim, judged: one CSV row per published or claimed value."""

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        """Write CSV, Markdown and pictures; the same evidence gives the same bytes."""

    def summary(self, committed: Evidence, local: Evidence) -> str:
        """What the command prints: published, committed and local values side by side, as Markdown."""


def names() -> tuple[str, ...]:
    """Names of all targets: built-in ones and those that installed packages register under `repro.targets`."""
    return BUILT_IN + tuple(sorted(point.name for point in entry_points(group=ENTRY_POINTS)))


def get(name: str) -> Target:
    """The target of this name; raises `UsageError` with the nearest name there is."""
    if name in BUILT_IN:
        return import_module(f"repro.{name}").TARGET
    for point in entry_points(group=ENTRY_POINTS, name=name):
        try:
            return point.load()
        except Exception as error:
            package = point.dist.name if point.dist else point.value
            raise UsageError(f"{package}: {name!r} under {ENTRY_POINTS} cannot be loaded: {error}") from error
    raise UsageError(f"no target {name!r}: {suggestion(name, names())}")


def planned(
    target: Target, scale: str, seeds: int | None = None, changes: Mapping[str, str] = MappingProxyType({})
) -> list[Unit]:
    """Units of a scale with the user's changes to its settings, as typed; none where nothing is trained."""
    if not target.scales:
        return []
    defaults = target.scales[scale]
    typed = {key: parse(key, text, defaults) for key, text in changes.items()}
    return target.units(scale, target.seeds[scale] if seeds is None else seeds, {**defaults, **typed})


def parse(key: str, text: str, defaults: Mapping[str, Scalar]) -> Scalar:
    """The value that a user typed for a setting, of the type of its default (of a number's or text where that is None).

    Raises `UsageError` for an unknown key, with the nearest, and for a text that is no such value.

    >>> parse("lr", "1e-3", {"lr": 0.1}), parse("swap", "no", {"swap": True}), parse("limit", "none", {"limit": 4})
    (0.001, False, None)
    >>> parse("witdh", "8", {"width": 16})
    Traceback (most recent call last):
    repro.errors.UsageError: no setting 'witdh': did you mean width?
    """
    if key not in defaults:
        raise UsageError(f"no setting {key!r}: {suggestion(key, defaults)}")
    kind = type(defaults[key])
    if text.lower() == "none":
        return None
    for convert in CONVERTERS.get(kind, (int, float, str)):
        try:
            return convert(text)
        except ValueError:
            continue
    raise UsageError(f"setting {key}={text}: expected {kind.__name__}, like {key}={defaults[key]}")


def _truth(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


CONVERTERS: dict[type, tuple[Callable[[str], Scalar], ...]] = {
    bool: (_truth,),
    int: (int,),
    float: (float,),
    str: (str,),
}
