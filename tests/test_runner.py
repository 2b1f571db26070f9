"""The runner with units that only count: what is skipped, resumed, ordered, kept back, and what a failure does."""

import fcntl
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from repro import hardware, runner, targets, workspace
from repro.evidence.records import Store, pack
from repro.runner import Report, Setup, plan
from repro.targets import Target, Unit
from repro.workspace import Note
from tests.conftest import FAKES
from tests.running import run_units

pytestmark = pytest.mark.usefixtures("fakes")
PROVENANCE = {"commit": "c0ffee", "dirty": False, "command": "test", "versions": {}, "cpu": "abacus", "gpu": None}


@pytest.fixture
def target(fakes: None) -> Target:
    return targets.get("counting")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(out=tmp_path / "runs", provenance=PROVENANCE, preregistration="abc")


@pytest.fixture(scope="module")
def all_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of all units by two workers leaves; nobody writes to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FAKES)
        out, target = tmp_path_factory.mktemp("all") / "runs", targets.get("counting")
        setup = Setup(out=out, provenance=PROVENANCE, workers=2, preregistration="abc")
        report = run_units(target, units(target), setup)
    assert names(report.units("done")) == ["base.0", "loose.0", "thrice.0", "twice.0"]
    assert report.exit_code == 0
    return out


@pytest.fixture
def done(all_done: Path, setup: Setup) -> Setup:
    """All units have been run."""
    shutil.copytree(all_done, setup.out)
    return setup


def units(target: Target, seeds: int = 1, **changes: object) -> list[Unit]:
    return target.units("smoke", seeds, target.scales["smoke"] | changes)


def names(those: list[Unit] | tuple[Unit, ...]) -> list[str]:
    return sorted(f"{unit.name}.{unit.seed}" for unit in those)


def log(setup: Setup) -> list[str]:
    return (setup.out / "work/counting/smoke/log").read_text().splitlines()


def test_a_record_says_how_long_its_unit_took(target: Target, setup: Setup) -> None:
    run_units(target, units(target, seconds=0.02)[:1], setup)
    ((record,), _) = setup.store.read("counting")
    assert record.wall_seconds >= 0.02


def test_every_unit_is_recorded_once_with_all_that_a_record_holds(done: Setup) -> None:
    records, damaged = done.store.read("counting")
    assert not damaged
    by_unit = {record.unit: record for record in records}
    assert {name: record.values["total"] for name, record in by_unit.items()} == {
        "base": 3, "loose": 3, "twice": 6, "thrice": 9
    }  # fmt: skip
    base = by_unit["base"]
    assert (base.commit, base.cpu, base.preregistration, base.workers, base.threads) == (
        "c0ffee",
        "abacus",
        "abc",
        2,
        1,
    )
    assert base.correct == {"total": "3:oA=="}
    assert base.started.endswith("+00:00")


def test_units_side_by_side_have_one_thread_on_one_core(done: Setup) -> None:
    assert {(one.values["threads"], one.values["cores"]) for one in done.store.read()[0]} == {(1, 1)}


def test_two_workers_are_two_processes_on_a_core_each(target: Target, setup: Setup) -> None:
    """Units that wait for each other end only if they run side by side."""
    run_units(target, units(target, 2, meet=2), replace(setup, workers=2))
    folder = setup.out / "work/counting/smoke"
    first, second = ((folder / f"begun.{unit}.0").read_text().split() for unit in ("base", "loose"))
    assert first[0] != second[0]
    assert len({first[1], second[1]}) == min(2, len(hardware.cores()))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_alone_takes_whichever_core_is_free(
    workers: int, target: Target, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in hardware.MEMORY_KEPT:
        monkeypatch.delenv(name, raising=False)
    run_units(target, units(target), replace(setup, workers=workers), limit=1)
    (record,), _ = setup.store.read()
    assert (record.values["threads"], record.values["cores"]) == (1, len(hardware.cores()))
    assert record.values["keeps_memory"] == 1


@pytest.mark.parametrize("backend", [None, "reference"])
def test_units_compute_on_the_backend_asked_for(
    backend: str | None, target: Target, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REPRO_BACKEND", raising=False)
    run_units(target, units(target), replace(setup, backend=backend), limit=1)
    (record,) = setup.store.read("counting")[0]
    assert record.values["on_reference"] == (backend == "reference")
    assert record.backend is None  # of a unit that loads no torch


def test_running_again_skips_what_is_recorded_here_or_committed(target: Target, done: Setup, tmp_path: Path) -> None:
    assert names(run_units(target, units(target), done).skipped) == ["base.0", "loose.0", "thrice.0", "twice.0"]
    elsewhere = replace(done, out=tmp_path / "other")
    assert plan(target, units(target), elsewhere, [done.store]).todo == ()
    assert len(log(done)) == 6


def interrupt(setup: Setup, unit: Unit, **more: object) -> None:
    """Leave in its folder what a run that was killed after two of three steps does."""
    setup.folder(unit).mkdir(parents=True, exist_ok=True)
    (setup.folder(unit) / "checkpoint.txt").write_text("2")
    workspace.write(setup.folder(unit), Note(unit.numerics, "running", 100.0, "2026-01-01T00:00:00+00:00", **more))


def test_a_unit_that_was_killed_goes_on(target: Target, setup: Setup) -> None:
    interrupt(setup, units(target)[0])
    run_units(target, units(target), setup, limit=1)
    assert log(setup) == ["base 0 2"]
    ((record,), _) = setup.store.read()
    assert record.wall_seconds >= 100
    assert record.started == "2026-01-01T00:00:00+00:00"
    assert not record.dirty


def test_a_unit_that_began_with_uncommitted_changes_stays_so(target: Target, setup: Setup) -> None:
    interrupt(setup, units(target)[0], dirty=True)
    run_units(target, units(target), setup, limit=1)
    ((record,), _) = setup.store.read()
    assert record.dirty


def test_what_a_finished_run_took_is_not_counted_again(target: Target, done: Setup) -> None:
    base = units(target)[0]
    workspace.write(done.folder(base), Note(base.numerics, "done", 100.0))
    next((done.out / "records/counting/smoke").glob("base*")).unlink()
    assert names(run_units(target, units(target), done).units("done")) == ["base.0"]
    assert [record.wall_seconds < 60 for record in done.store.read()[0]] == [True] * 4


def test_forced_units_start_from_nothing(target: Target, done: Setup) -> None:
    interrupt(done, units(target)[0])
    report = run_units(target, units(target), replace(done, force=True))
    assert len(report.units("done")) == 4
    assert len(log(done)) == 12


def test_a_forced_command_that_was_broken_off_goes_on(target: Target, done: Setup) -> None:
    """Given again it runs what was left, forced or not; given once more it begins anew."""
    forced = replace(done, force=True)
    assert names(run_units(target, units(target), forced, limit=2).left) == ["thrice.0", "twice.0"]
    base = units(target)[0]
    asked = workspace.read(done.folder(units(target)[2])).asked
    interrupt(done, base, asked=asked)
    (done.folder(base) / "total.txt").unlink()
    before = len(log(done))
    assert [job.unit.name for job in plan(target, units(target), done).todo] == ["base", "twice", "thrice"]
    report = run_units(target, units(target), forced)
    assert names(report.units("done")) == ["base.0", "thrice.0", "twice.0"]
    assert names(report.skipped) == ["loose.0"]
    assert log(done)[before:] == ["base 0 2"]
    assert plan(target, units(target), done).todo == ()
    assert len(plan(target, units(target), forced).todo) == 4


def test_a_forced_command_for_other_units_or_by_other_code_begins_anew(target: Target, done: Setup) -> None:
    forced = replace(done, force=True)
    run_units(target, units(target), forced, limit=2)
    assert len(plan(target, units(target), forced).todo) == 2
    assert len(plan(target, units(target, 2), forced).todo) == 8
    committed = replace(forced, provenance=PROVENANCE | {"commit": "c1c1c1"})
    assert len(plan(target, units(target), committed).todo) == 4


def test_what_a_forced_command_asks_is_noted_before_a_start_runs_again(
    target: Target, done: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off while it notes: what is noted includes all that starts from what is."""
    ask, noted = workspace.ask, []

    def broken(folder: Path, *given: object) -> None:
        if len(noted) == 2:
            raise KeyboardInterrupt
        noted.append(folder.name.partition(".")[0])
        ask(folder, *given)

    monkeypatch.setattr(workspace, "ask", broken)
    with pytest.raises(KeyboardInterrupt):
        run_units(target, units(target), replace(done, force=True))
    assert noted == ["thrice", "twice"]


def test_two_commands_do_not_do_the_same_twice(target: Target, done: Setup) -> None:
    forced = replace(done, force=True)
    first, second = (plan(target, units(target), forced) for _ in range(2))
    assert len(runner.execute(first, forced).units("done")) == 4
    assert {runner._attempt(job, forced, lambda word: None).how for job in second.todo} == {"recorded"}
    assert len(log(done)) == 12


def test_a_note_of_an_earlier_version_is_of_a_finished_run(target: Target, done: Setup) -> None:
    base = units(target)[0]
    (done.folder(base) / "unit.json").write_text('{"numerics": 1, "seconds": 138.66}')
    next((done.out / "records/counting/smoke").glob("thrice*")).unlink()
    assert [job.unit.name for job in plan(target, units(target), done).todo] == ["thrice"]
    assert workspace.begin(done.folder(base), 1, dirty=False).seconds == 0


def test_other_numerics_are_run_anew(target: Target, done: Setup) -> None:
    interrupt(done, units(target)[0])
    newer = [replace(unit, numerics=2) for unit in units(target)]
    assert len(run_units(target, newer, done).units("done")) == 4
    assert {record.numerics for record in done.store.read()[0]} == {2}
    assert len(log(done)) == 12


def test_an_artefact_of_other_numerics_or_of_a_broken_run_is_not_started_from(target: Target, done: Setup) -> None:
    base = units(target)[0]
    next((done.out / "records/counting/smoke").glob("thrice*")).unlink()
    assert [job.unit.name for job in plan(target, units(target), done).todo] == ["thrice"]
    for note in (Note(base.numerics - 1, state="done"), Note(base.numerics, state="running")):
        workspace.write(done.folder(base), note)
        assert [job.unit.name for job in plan(target, units(target), done).todo] == ["base", "thrice"]


def test_what_another_command_recorded_meanwhile_is_not_run(target: Target, setup: Setup, done: Setup) -> None:
    records = done.store.read()[0]
    shutil.rmtree(done.out)
    planned = plan(target, units(target), setup)
    for record in records:
        setup.store.write(record)
    report = runner.execute(planned, setup)
    assert len(report.units("recorded")) == 4
    assert not list(setup.out.glob("work/counting/smoke/log"))


def test_what_this_machine_recorded_counts_before_what_is_committed(
    target: Target, done: Setup, tmp_path: Path
) -> None:
    committed = Store(tmp_path / "committed")
    for record in done.store.read()[0]:
        committed.write(replace(record, cpu="another"))
    found = runner._recorded("counting", [done.store, committed])
    assert {record.cpu for record in found.values()} == {"abacus"}


def test_a_recorded_unit_is_run_again_when_its_artefact_is_needed_and_not_here(
    target: Target, done: Setup, tmp_path: Path
) -> None:
    here = replace(done, out=tmp_path / "other")
    for record in done.store.read()[0]:
        if record.unit != "twice":
            here.store.write(record)
    report = run_units(target, units(target), here)
    assert names(report.units("done")) == ["base.0", "twice.0"]
    assert names(report.skipped) == ["loose.0", "thrice.0"]


def test_a_start_that_comes_out_otherwise_than_recorded_is_refused(target: Target, done: Setup, tmp_path: Path) -> None:
    """Arms of one seed are compared because they share their start."""
    (start,) = (record for record in done.store.read()[0] if record.unit == "base")
    here = replace(done, out=tmp_path / "other")
    here.store.write(replace(start, correct={"total": pack([False, False, True])}))
    for _ in range(2):  # what came out is not taken for the start the next time
        report = run_units(target, units(target), here)
        assert names(report.left) == ["thrice.0", "twice.0"]
        ((_, end),) = [one for one in report.ended if one[1].how == "failed"]
        assert end.code == 3
        assert "another network came out than the one recorded on abacus" in end.line
    assert names(run_units(target, units(target), replace(here, force=True)).units("done")) == [
        "base.0", "loose.0", "thrice.0", "twice.0"
    ]  # fmt: skip


def test_limit_counts_units_and_shards_split_seeds(target: Target, setup: Setup) -> None:
    report = run_units(target, units(target, 3), setup, limit=1, shard=(2, 2))
    assert names(report.units("done")) == ["base.1"]
    assert names(report.left) == ["loose.1", "thrice.1", "twice.1"]


@pytest.mark.parametrize(("way", "code"), [("data", 3), ("bug", 70), ("die", 70)])
def test_a_failure_keeps_back_what_needs_it_and_nothing_else(target: Target, setup: Setup, way: str, code: int) -> None:
    report = run_units(target, units(target, fail=f"base:{way}"), replace(setup, workers=2))
    assert names(report.units("failed")) == ["base.0"]
    assert names(report.units("done")) == ["loose.0"]
    assert names(report.left) == ["thrice.0", "twice.0"]
    assert report.exit_code == code
    ((_, end),) = [one for one in report.ended if one[1].how == "failed"]
    assert {"data": "buy some", "bug": "'a bug'", "die": "-9"}[way] in end.line


def test_a_unit_that_somebody_else_runs_is_left_to_them(target: Target, setup: Setup) -> None:
    held = setup.folder(units(target)[0])
    held.mkdir(parents=True)
    with (held / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        report = run_units(target, units(target), setup)
    assert names(report.units("busy")) == ["base.0"]
    assert names(report.units("done")) == ["loose.0"]
    assert report.exit_code == 0


def test_a_finished_unit_keeps_its_artefact_and_no_checkpoint(target: Target, done: Setup) -> None:
    assert {path.name for path in done.folder(units(target)[0]).iterdir()} == {"lock", "total.txt", "unit.json"}


def test_a_truncated_record_is_made_again(target: Target, done: Setup) -> None:
    path = next(Path(done.out).glob("records/counting/smoke/thrice*"))
    path.write_text(path.read_text()[:100])
    assert names(run_units(target, units(target), done).units("done")) == ["thrice.0"]
    assert Store(done.out / "records").read()[1] == []


def test_nothing_to_do_is_a_report_too(setup: Setup) -> None:
    assert runner.execute(runner.Plan((), ()), setup) == Report()
