"""Where evidence lies: the committed folders of the checkout, and this machine's own folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.evidence.collection import Evidence, Wanted, collect
from repro.evidence.preregistration import preregistered
from repro.evidence.records import Store, settings_hash
from repro.hardware import ROOT
from repro.targets import BUILT_IN, Target, Unit, planned

PREREGISTRATION = Path(__file__).parent / "preregistration.toml"


@dataclass(frozen=True)
class Places:
    """The checkout `root` with its committed evidence, and `out`, which takes what is run and rendered here."""

    root: Path = ROOT
    out: Path = Path("runs")
    targets: tuple[str, ...] = BUILT_IN
    """Those whose evidence the checkout keeps, checks and shows in its README."""

    @property
    def baseline(self) -> Path:
        """The accepted verdict and state of every claim."""
        return self.root / "baseline.csv"

    @property
    def readme(self) -> Path:
        """The file that shows the tables of `repro.status.BLOCKS`."""
        return self.root / "README.md"

    @property
    def local(self) -> Store:
        """Records made on this machine."""
        return Store(self.out / "records")

    @property
    def work(self) -> Path:
        """Folders of the units that were run on this machine."""
        return self.out / "work"

    def renders(self, target: Target) -> Path:
        """Folder of the target's committed renders: `tables/` or `figures/`."""
        return self.root / f"{target.kind}s"

    def committed(self, target: Target) -> Store:
        """The target's accepted records."""
        return Store(self.renders(target) / "records")


def gather(target: Target, store: Store, units: Sequence[Unit] | None = None) -> Evidence:
    """What a store holds of `units`, by default of all that the target plans at every scale."""
    plan = _wanted(unit for scale in target.scales for unit in planned(target, scale))
    wanted = plan if units is None else _wanted(units)
    return collect(target.name, wanted, store, preregistered(PREREGISTRATION, target.name)[0], plan)


def _wanted(units: Iterable[Unit]) -> list[Wanted]:
    return [Wanted(u.scale, u.name, u.seed, settings_hash(u.settings), u.numerics) for u in units]
