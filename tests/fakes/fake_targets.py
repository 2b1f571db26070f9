"""A target of tiny units, registered as a user's package would: adding this folder to the path installs it."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from repro import hardware
from repro.errors import ReproError
from repro.evidence.claims import Row
from repro.evidence.collection import Evidence
from repro.evidence.files import write_text
from repro.targets import Context, Outcome, Scalar, Unit

os.fsync = lambda descriptor: None  # in workers too: tests kill them, never the machine

DEFAULTS: dict[str, Scalar] = {"steps": 3, "seconds": 0.0, "rate": 0.5, "loud": False, "fail": "", "meet": 1}


@dataclass(frozen=True)
class Counting:
    """Counts `steps` in unit `base`; `twice` and `thrice` start from what it counted; `loose` needs nothing."""

    name: str = "counting"
    title: str = "Counting to a small number"
    kind: str = "table"
    needs: tuple[str, ...] = ()
    artefact: str = "total.txt"
    values_unit: str = "steps"
    scales: Mapping[str, Mapping[str, Scalar]] = field(
        default_factory=lambda: {"smoke": DEFAULTS, "cpu": DEFAULTS | {"steps": 5}}
    )
    seeds: Mapping[str, int] = field(default_factory=lambda: {"smoke": 1, "cpu": 3})

    def units(self, scale: str, seeds: int, settings: Mapping[str, Scalar]) -> list[Unit]:
        return [
            Unit(self.name, scale, name, seed, dict(settings), numerics(), requires)
            for seed in range(seeds)
            for name, requires in (("base", ()), ("loose", ()), ("twice", ("base",)), ("thrice", ("base",)))
        ]

    def run(self, unit: Unit, context: Context) -> Outcome:
        fail(unit)
        meet(unit, context)
        if unit.name in ("twice", "thrice"):
            total = int((context.inputs["base"] / self.artefact).read_text()) * {"twice": 2, "thrice": 3}[unit.name]
        else:
            total = count(unit, context)
        (context.folder / self.artefact).write_text(str(total))
        values = {
            "total": float(total),
            "threads": float(os.environ["OMP_NUM_THREADS"]),
            "keeps_memory": float(os.environ.items() >= hardware.MEMORY_KEPT.items()),
            "cores": float(len(os.sched_getaffinity(0))),
            "on_reference": float(os.environ.get("REPRO_BACKEND") == "reference"),
        }
        return Outcome(values, values, {"total": np.array([True, False, True])}, [{"step": total}], images=total)

    def rows(self, evidence: Evidence) -> list[Row]:
        return [self.row(evidence, scale, name) for scale in ("smoke", "cpu") for name in ("base", "twice")]

    def row(self, evidence: Evidence, scale: str, name: str) -> Row:
        totals = list(evidence.values(scale, name, "total").values())
        state, reason = evidence.state(scale, name)
        return Row(
            target=self.name,
            claim=f"{name} counts",
            kind="pattern",
            scale=scale,
            row=name,
            column="total",
            ours=sum(totals) / len(totals) if totals else None,
            n=len(totals),
            verdict="holds" if totals else "",
            state=state,
            reason=reason,
        )

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        lines = [f"{row.scale},{row.row},{row.ours}" for row in self.rows(evidence)]
        return [write_text(folder / "counting.csv", "\n".join(lines) + "\n")]

    def summary(self, committed: Evidence, local: Evidence) -> str:
        return f"committed {len(committed.records)}, local {len(local.records)}"


def numerics() -> int:
    return int(os.environ.get("FAKE_NUMERICS", "1"))


def fail(unit: Unit) -> None:
    """Fail as the setting `fail` says: `UNIT:WAY`."""
    name, _, way = str(unit.settings["fail"]).partition(":")
    if name == unit.name:
        if way == "data":
            raise ReproError("counting needs fingers; buy some")
        if way == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyError("a bug")


def meet(unit: Unit, context: Context) -> None:
    """Say in which process and on which core; wait until as many units as the setting `meet` says have done so."""
    where = f"{os.getpid()} {min(os.sched_getaffinity(0))}"
    (context.folder.parent / f"begun.{unit.name}.{unit.seed}").write_text(where)
    deadline = time.monotonic() + 60
    while len(list(context.folder.parent.glob("begun.*"))) < int(unit.settings["meet"] or 1):
        if time.monotonic() > deadline:
            raise TimeoutError("nobody else came")
        time.sleep(0.01)


def count(unit: Unit, context: Context) -> int:
    """Count from the checkpoint on; every step done leaves a line in the log beside the unit's folder."""
    checkpoint = context.folder / "checkpoint.txt"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    steps = int(unit.settings["steps"] or 0)
    for step in range(done, steps):
        time.sleep(float(unit.settings["seconds"] or 0))
        write_text(checkpoint, str(step + 1))
        with (context.folder.parent / "log").open("a") as log:
            log.write(f"{unit.name} {unit.seed} {step}\n")
        context.progress(step + 1, steps, "counting")
    return steps


COUNTING = Counting()
