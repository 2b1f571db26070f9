"""Every target, built in or registered, has the same entry points and keeps the same promises."""

import importlib
from pathlib import Path

import pytest

from repro import datasets, targets
from repro.cli import main
from repro.errors import UsageError
from repro.evidence.claims import RUN_SCALES, Row
from repro.evidence.preregistration import preregistered
from repro.evidence.records import Store
from repro.places import PREREGISTRATION, gather
from repro.status import Claim
from repro.targets import Target, planned

pytestmark = pytest.mark.usefixtures("coarse")

NAMES = (*targets.BUILT_IN, "counting")
ENTRY_POINTS = ("name", "title", "kind", "needs", "artefact", "values_unit", "scales", "seeds")


@pytest.fixture(params=NAMES)
def target(request: pytest.FixtureRequest, fakes: None, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.delenv("REPRO_BACKEND", raising=False)
    return targets.get(request.param)


def test_a_target_describes_itself(target: Target) -> None:
    for name in ENTRY_POINTS:
        assert getattr(target, name) is not None
    assert target.name in NAMES
    assert target.kind in ("table", "figure")
    assert set(target.needs) <= set(datasets.NAMES)
    assert set(target.scales) <= set(RUN_SCALES)
    assert set(target.seeds) == set(target.scales)


def test_units_can_be_run_in_order_and_told_apart(target: Target) -> None:
    for scale in target.scales:
        units = planned(target, scale)
        before: set[tuple[str, int]] = set()
        for unit in units:
            assert (unit.target, unit.scale) == (target.name, scale)
            assert (unit.name, unit.seed) not in before
            assert {(name, unit.seed) for name in unit.requires} <= before
            before.add((unit.name, unit.seed))
        assert {unit.seed for unit in units} == set(range(target.seeds[scale]))


def test_seeds_are_those_preregistered(target: Target) -> None:
    section, _ = preregistered(PREREGISTRATION, target.name)
    assert section.get("seeds", {}).items() <= target.seeds.items()


def test_claims_without_any_record_are_judged_or_missing(target: Target, tmp_path: Path) -> None:
    rows = target.rows(gather(target, Store(tmp_path)))
    assert rows
    assert all(isinstance(row, Row) and row.target == target.name for row in rows)
    assert all(row.state == "missing" for row in rows if row.scale != "print")
    assert len({Claim.of(row) for row in rows}) == len(rows)


def test_rendering_twice_gives_the_same_bytes(target: Target, tmp_path: Path) -> None:
    evidence = gather(target, Store(tmp_path / "none"))
    first, second = (
        {path.name: path.read_bytes() for path in target.render(evidence, tmp_path / folder)} for folder in "ab"
    )
    assert first == second
    assert f"{target.name}.csv" in first
    assert all(name.startswith((f"{target.name}.", f"{target.name}_")) for name in first)
    assert set(first) == {path.name for path in (tmp_path / "a").iterdir()}


def test_the_summary_is_text(target: Target, tmp_path: Path) -> None:
    evidence = gather(target, Store(tmp_path))
    assert target.summary(evidence, evidence).strip()


def test_names_are_those_of_modules_and_of_entry_points(fakes: None) -> None:
    assert set(NAMES) <= set(targets.names())
    for name in targets.BUILT_IN:
        assert importlib.import_module(f"repro.{name}").TARGET.name == name
    with pytest.raises(UsageError, match=r"no target 'tabel1': did you mean table1\?"):
        targets.get("tabel1")


def test_a_package_that_cannot_be_imported_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{targets.ENTRY_POINTS}]\nmine = my_module:TARGET\n")
    (tmp_path / "my_module.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["mine"]) == 2
    out, err = capsys.readouterr()
    reason = "No module named 'no_such_package'"
    assert err == f"repro: my-package: 'mine' under repro.targets cannot be loaded: {reason}\n"
    assert out == ""
    assert targets.get("table1").name == "table1"  # the others are there all the same
