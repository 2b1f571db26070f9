"""How many seeds, and hours, it takes to see an effect at the spread and speed that were recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from repro import targets
from repro.errors import ReproError, UsageError
from repro.evidence.power import Design, equivalence_power, power, seeds_needed
from repro.evidence.render import markdown_table
from repro.places import Places, gather
from repro.targets import Target, Unit


class Planned(NamedTuple):
    """What one recorded comparison says of an effect."""

    name: str
    scale: str
    source: str
    """`committed` or `this machine`."""
    sd: float
    """Over seeds, of an arm's difference to the control."""
    recorded: int
    """Seeds that it was measured on."""
    power_now: float
    """With these, of one comparison planned alone."""
    seeds: int
    """For one comparison planned alone."""
    hours: float
    """Of one core, for so many seeds of all arms."""
    comparisons: int
    seeds_together: int
    """With intervals corrected for all comparisons (Bonferroni), of one of them."""
    hours_together: float
    seeds_equal: int
    """That put such an interval within the effect where there is no difference."""
    hours_equal: float


def plan(places: Places, target: Target, units: Sequence[Unit], effect: float, wanted: float) -> list[Planned]:
    """What every comparison among the recorded `units` of a target says, committed ones first.

    Raises `UsageError` for a target that compares no arms and for an effect out of reach; `ReproError` where nothing
    is recorded to plan from.
    """
    if not (math.isfinite(effect) and 0 < wanted < 1):
        raise UsageError(f"effect={effect}, power={wanted}: give finite points, and a power between 0 and 1")
    designs: Any = getattr(target, "designs", None)
    if designs is None:
        able = [name for name in targets.names() if hasattr(targets.get(name), "designs")]
        raise UsageError(f"{target.name} has no comparison to plan; there is {', '.join(able)}")
    stores = {"committed": places.committed(target), "this machine": places.local}
    found = [(source, design) for source, store in stores.items() for design in designs(gather(target, store, units))]
    if not found:
        remedy = f"python -m repro {target.name} --scale cpu --seeds 3"
        raise ReproError(f"{target.name}: no comparison has the two seeds that a spread takes; first {remedy}")
    try:
        return [_planned(source, design, effect, wanted) for source, design in found]
    except ValueError as error:
        raise UsageError(str(error)) from error


def _planned(source: str, design: Design, effect: float, wanted: float) -> Planned:
    alone = seeds_needed(effect, design.sd, wanted)
    needed = partial(seeds_needed, effect, design.sd, wanted, comparisons=design.comparisons, fewest=design.fewest)
    together, equal = needed(), needed(chance=equivalence_power)
    return Planned(
        design.name,
        design.scale,
        source,
        design.sd,
        design.n,
        power(design.n, effect, design.sd) if design.n >= design.fewest else 0.0,
        alone,
        alone * design.seconds / 3600,
        design.comparisons,
        together,
        together * design.seconds / 3600,
        equal,
        equal * design.seconds / 3600,
    )


def as_text(target: str, found: list[Planned], effect: float, wanted: float) -> str:
    """The same as a Markdown table."""
    header = (
        "runs",
        "scale",
        "records",
        "sd",
        "n",
        "power now",
        "seeds",
        "core hours",
        "seeds, all",
        "core hours, all",
        "seeds, equal",
        "core hours, equal",
    )
    lines = [
        (
            one.name,
            one.scale,
            one.source,
            f"{one.sd:.3g}",
            str(one.recorded),
            f"{100 * one.power_now:.0f} %",
            str(one.seeds),
            f"{one.hours:.1f}",
            str(one.seeds_together),
            f"{one.hours_together:.1f}",
            str(one.seeds_equal),
            f"{one.hours_equal:.1f}",
        )
        for one in found
    ]
    return (
        f"{target}: seeds that show a difference of {effect:g} points with {100 * wanted:g} % power, paired by seed, "
        "at the recorded spread of differences (sd). All, equal: with intervals corrected for all comparisons, of one "
        "of them; equal: to put its interval within so many points where no arm differs.\n\n"
        f"{markdown_table(header, lines, 'lll' + 'r' * 9)}"
    ).rstrip()
