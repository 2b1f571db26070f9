"""The table of methods: each row of Tables 1-4 as a combination of independent choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BITS = (8, 6, 4, 2)
INDIVIDUAL = "individual"
FLOAT = "fp32"


@dataclass(frozen=True)
class Recipe:
    """How the networks of a method come to be.

    Attributes:
        start: the unit whose network this method starts from.
        trained: whether it is trained further, quantized.
        per_bit: whether each bit-width has a network, and so a unit, of its own.
        clip: clip levels alpha: `learned` in training, `percentile` of the float network's activations, or those of
            the `start`.
        batch_norm: statistics are its `own` from training, those of the `start`, or `calibrated` per bit-width.
    """

    start: str
    trained: bool
    per_bit: bool
    clip: Literal["learned", "percentile", "start"]
    batch_norm: Literal["own", "start", "calibrated"]


@dataclass(frozen=True)
class Method:
    """A row: its name in the data, its label in print, and its recipe; None where it is not built yet."""

    name: str
    label: str
    recipe: Recipe | None = None

    def unit(self, bits: int) -> str:
        """Name of the unit that measures this method at a bit-width."""
        return f"{self.name}_{bits}" if self.recipe and self.recipe.per_bit else self.name

    def units(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Its units with the bit-widths each measures.

        >>> METHODS["individual"].units()
        (('individual_8', (8,)), ('individual_6', (6,)), ('individual_4', (4,)), ('individual_2', (2,)))
        >>> METHODS["dq32"].units()
        (('dq32', (8, 6, 4, 2)),)
        """
        if self.recipe is None:
            return ()
        if self.recipe.per_bit:
            return tuple((self.unit(bits), (bits,)) for bits in BITS)
        return ((self.name, BITS),)


_ROWS = (
    Method(INDIVIDUAL, "Individual", Recipe(FLOAT, True, True, "learned", "own")),
    Method("dq32", "DQ (32 bit)", Recipe(FLOAT, False, False, "percentile", "start")),
    Method("dq8", "DQ (8 bit)", Recipe("individual_8", False, False, "start", "start")),
    Method("dq32_bn_calib", "DQ (32 bit) + BN calibration", Recipe(FLOAT, False, False, "percentile", "calibrated")),
    Method("dq8_bn_calib", "DQ (8 bit) + BN calibration", Recipe("individual_8", False, False, "start", "calibrated")),
    Method("joint", "Joint quantization"),
    Method("switchable_bn", "Switchable BN"),
    Method("adabits", "AdaBits"),
    Method("any_precision", "Any Precision"),
    Method("bit_mixer", "Bit-Mixer"),
    Method("coquant", "CoQuant"),
)
METHODS = {method.name: method for method in _ROWS}
