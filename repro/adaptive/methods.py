"""The table of methods: each row of Tables 1-4 as a combination of independent choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Any, Literal, get_args

from repro.errors import UsageError, suggestion
from repro.evidence.records import NAME

BITS = (8, 6, 4, 2)
INDIVIDUAL = "individual"
FLOAT = "fp32"
FLOAT_BITS = 32
"""Column of the full-precision network."""
OURS = "ours"
ENTRY_POINTS = "repro.methods"
Clip = Literal["shared", "per_bit", "percentile", "start"]
Norm = Literal["shared", "per_bit", "transitional", "start", "calibrated"]
TeacherRule = Literal["next_higher", "highest", "nearest", "random", "selected"]


@dataclass(frozen=True)
class Recipe:
    """How the networks of a method come to be. Raises `UsageError` for choices that contradict each other.

    >>> Recipe(FLOAT, clip="shared", teacher="highest").batch_norm
    'per_bit'

    Attributes:
        start: the unit whose network this method starts from.
        trained: whether it is trained further, quantized.
        per_bit: whether each bit-width has a network, and so a unit, of its own.
        clip: clip levels alpha: learned, one (`shared`) or one `per_bit`; a `percentile` of the float network's
            activations; or those of the `start`.
        batch_norm: learned, `shared`, `per_bit` or per pair of bit-widths (`transitional`); that of the `start`; or
            `calibrated` for each bit-width.
        teacher: who teaches a bit-width (`repro.adaptive.teachers`), if anybody.
        hard_target: whether a taught bit-width learns from the labels too.
        soft_target: whether it learns from its teacher's output; if not, the teacher lends its blocks alone.
        swapped: whether blocks of the student give way to the teacher's.
        random_bits: whether passes are at random bit-widths instead of at each.
    """

    start: str
    trained: bool = True
    per_bit: bool = False
    clip: Clip = "per_bit"
    batch_norm: Norm = "per_bit"
    teacher: TeacherRule | None = None
    hard_target: bool = True
    soft_target: bool = True
    swapped: bool = False
    random_bits: bool = False

    @property
    def open_clip(self) -> bool:
        """Whether paper B leaves open who shares clip levels: where bit-widths are taught or drawn at random."""
        return self.random_bits or self.teacher is not None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("clip", self.clip, get_args(Clip)),
            ("batch_norm", self.batch_norm, get_args(Norm)),
            ("teacher", self.teacher, (None, *get_args(TeacherRule))),
        ):
            if value not in known:
                raise UsageError(f"a recipe has no {name}={value!r}: {suggestion(str(value), filter(None, known))}")
        if self.random_bits and self.teacher:
            raise UsageError(f"a recipe with random_bits has no teacher: leave out teacher={self.teacher!r}")
        for choice, unused in (
            ("swapped=True", self.swapped),
            ("hard_target=False", not self.hard_target),
            ("soft_target=False", not self.soft_target),
        ):
            if unused and not self.teacher:
                raise UsageError(f"a recipe with {choice} needs a teacher: name one")
        if not (self.hard_target or self.soft_target):
            raise UsageError("a recipe with neither hard_target nor soft_target learns nothing: leave one of them True")
        if self.start == FLOAT and self.clip == "start":
            raise UsageError(f"a recipe from {FLOAT} has no clip levels to start with: give another clip")
        if self.start != FLOAT and (self.clip != "start" or self.batch_norm not in ("start", "calibrated")):
            remedy = "give clip='start', and batch_norm='start' or 'calibrated'"
            raise UsageError(f"a recipe from {self.start} keeps its network: {remedy}")
        if self.trained and (self.clip == "percentile" or self.batch_norm == "calibrated"):
            choice = f"clip={self.clip!r} with batch_norm={self.batch_norm!r}"
            raise UsageError(f"{choice} cannot be trained: give trained=False")
        if not self.trained and self.start == FLOAT and self.clip != "percentile":
            raise UsageError(f"a recipe from {FLOAT} that is not trained has no clip levels: give clip='percentile'")
        if self.random_bits and not self.trained:
            raise UsageError("a recipe with random_bits has to be trained: leave out trained=False")
        if self.per_bit and (not self.trained or self.teacher or self.random_bits):
            remedy = "leave out trained=False, teacher and random_bits"
            raise UsageError(f"a recipe with per_bit trains each bit-width alone: {remedy}")


@dataclass(frozen=True)
class Method:
    """A row: its name in the data, its label in print, and its recipe.

    `origin` is empty for a row of the paper; else it says whose it is: `ours`, or the package that registers it.
    """

    name: str
    label: str
    recipe: Recipe
    origin: str = ""

    @property
    def title(self) -> str:
        """Its label, marked where the row is not the paper's.

        >>> METHODS["joint_bn_calib"].title
        'Joint quantization + BN calibration (ours)'
        """
        return f"{self.label} ({self.origin})" if self.origin else self.label

    def unit(self, bits: int) -> str:
        """Name of the unit that measures this method at a bit-width."""
        return f"{self.name}_{bits}" if self.recipe.per_bit else self.name

    def units(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Its units with the bit-widths each measures.

        >>> METHODS["individual"].units()
        (('individual_8', (8,)), ('individual_6', (6,)), ('individual_4', (4,)), ('individual_2', (2,)))
        >>> METHODS["dq32"].units()
        (('dq32', (8, 6, 4, 2)),)
        """
        if self.recipe.per_bit:
            return tuple((self.unit(bits), (bits,)) for bits in BITS)
        return ((self.name, BITS),)


_FROM_FLOAT: dict[str, Any] = {"start": FLOAT, "trained": False, "clip": "percentile"}
_FROM_8_BIT: dict[str, Any] = {"start": "individual_8", "trained": False, "clip": "start"}
_ROWS = (
    Method(INDIVIDUAL, "Individual", Recipe(FLOAT, per_bit=True, clip="shared", batch_norm="shared")),
    Method("dq32", "DQ (32 bit)", Recipe(**_FROM_FLOAT, batch_norm="start")),
    Method("dq8", "DQ (8 bit)", Recipe(**_FROM_8_BIT, batch_norm="start")),
    Method("dq32_bn_calib", "DQ (32 bit) + BN calibration", Recipe(**_FROM_FLOAT, batch_norm="calibrated")),
    Method("dq8_bn_calib", "DQ (8 bit) + BN calibration", Recipe(**_FROM_8_BIT, batch_norm="calibrated")),
    Method("joint", "Joint quantization", Recipe(FLOAT, clip="shared", batch_norm="shared")),
    Method("switchable_bn", "Switchable BN", Recipe(FLOAT, clip="shared")),
    Method("adabits", "AdaBits", Recipe(FLOAT)),
    Method("any_precision", "Any Precision", Recipe(FLOAT, clip="shared", teacher="next_higher", hard_target=False)),
    Method("bit_mixer", "Bit-Mixer", Recipe(FLOAT, batch_norm="transitional", random_bits=True)),
    Method("coquant", "CoQuant", Recipe(FLOAT, teacher="selected", swapped=True)),
    Method(
        "joint_bn_calib",
        "Joint quantization + BN calibration",
        Recipe("joint", trained=False, clip="start", batch_norm="calibrated"),
        OURS,
    ),
    Method(
        "bit_mixer_bn_calib",
        "Bit-Mixer + BN calibration",
        Recipe("bit_mixer", trained=False, clip="start", batch_norm="calibrated"),
        OURS,
    ),
    # CoQuant taken apart: who teaches, and whether blocks are swapped.
    Method("distilled", "Distillation from the highest bit-width", Recipe(FLOAT, teacher="highest"), OURS),
    Method("nearest", "Distillation from the nearest bit-width", Recipe(FLOAT, teacher="nearest"), OURS),
    Method("selected", "CoQuant without swapping", Recipe(FLOAT, teacher="selected"), OURS),
    Method("highest_swapped", "CoQuant, teacher highest", Recipe(FLOAT, teacher="highest", swapped=True), OURS),
    Method("nearest_swapped", "CoQuant, teacher nearest", Recipe(FLOAT, teacher="nearest", swapped=True), OURS),
)
METHODS = {method.name: method for method in _ROWS}
"""Rows of the paper, in the order of print, then ours."""


def methods() -> Mapping[str, Method]:
    """All rows by name: those of the paper, ours, and those that installed packages register under `repro.methods`.

    Raises `UsageError`, naming the package, for one that is no `Method`, whose name is taken or cannot be kept, or that
    starts from a unit that is not there or leaves no network at every scale.
    """
    found = dict(METHODS)
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        package = point.dist.name if point.dist else point.value
        try:
            method = point.load()
        except (Exception, SystemExit) as error:
            raise UsageError(f"{package}: {point.name!r} under {ENTRY_POINTS} cannot be loaded: {error}") from error
        if not isinstance(method, Method):
            raise UsageError(f"{package} registers {point.name!r} under {ENTRY_POINTS}: it is no Method")
        if not NAME.fullmatch(method.name) or {"|", "\n"} & {*method.label}:
            remedy = "letters, digits, _ + and - in the name, no | in the label"
            raise UsageError(f"{package} registers a method {method.name!r}, {method.label!r}: use {remedy}")
        known = {unit: row for row in found.values() for unit, _ in row.units()}
        starts = {FLOAT, *(unit for unit, row in known.items() if row.recipe.trained and row.origin != OURS)}
        if {method.name, *(unit for unit, _ in method.units())} & ({FLOAT} | known.keys() | found.keys()):
            raise UsageError(f"{package} registers a method {method.name!r}: there is one of this name")
        if method.recipe.start not in starts:
            raise UsageError(
                f"method {method.name!r} of {package} starts from {method.recipe.start!r}: "
                f"give one of {', '.join(sorted(starts))}"
            )
        found[method.name] = replace(method, origin=package)
    return found


def unit_of(name: str) -> tuple[Method, tuple[int, ...]]:
    """The method that a unit measures, and the bit-widths at which it does. Raises `KeyError` for another name.

    >>> method, bits = unit_of("individual_4")
    >>> method.label, bits
    ('Individual', (4,))
    """
    return {unit: (method, bits) for method in methods().values() for unit, bits in method.units()}[name]
