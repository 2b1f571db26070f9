"""What is accepted, what the status says of it, and that the check notices every difference."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from repro import evaluate, status, targets, workspace
from repro.accept import accept
from repro.cli import main
from repro.errors import ReproError
from repro.evidence.claims import Row
from repro.evidence.records import Record, pack
from repro.places import Places
from repro.runner import Setup, key
from repro.targets import Target, planned
from tests.running import run_units

pytestmark = pytest.mark.usefixtures("fakes")
CLEAN = {"commit": "c0ffee", "dirty": False, "command": "test", "versions": {}, "cpu": "abacus", "gpu": None}


@pytest.fixture
def target(fakes: None) -> Target:
    return targets.get("counting")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A checkout that keeps one target's evidence, with nothing accepted yet."""
    blocks = [f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in status.BLOCKS]
    (tmp_path / "README.md").write_text("\n".join(["# Title", *blocks, "Text.\n"]))
    return Places(root=tmp_path, out=tmp_path / "runs", targets=("counting",))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Record]]:
    """What all units of a scale leave, run once."""

    @cache
    def recorded(scale: str) -> list[Record]:
        setup, target = Setup(tmp_path_factory.mktemp("runs"), provenance=CLEAN), targets.get("counting")
        run_units(target, planned(target, scale), setup)
        return setup.store.read()[0]

    return recorded


@pytest.fixture
def run(recorded: Callable[[str], list[Record]], target: Target, places: Places) -> Callable[..., None]:
    """Leaves what a run of scale `cpu` does, of all seeds unless told."""

    def run(seeds: int = 3, scale: str = "cpu", **provenance: bool) -> None:
        for record in recorded(scale):
            if record.seed < seeds:
                places.local.write(replace(record, **provenance))

    return run


@pytest.fixture
def accepted(target: Target, places: Places, run: Callable[..., None]) -> Places:
    """The same checkout after a run was accepted, with a baseline."""
    run()
    accept(places, target, print)
    status.write_baseline(places.baseline, status.claims(places))
    return places


def problems(places: Places) -> list[str]:
    return [str(problem) for problem in status.check(places, status.claims(places))]


def test_accepting_moves_the_records_renders_them_and_renews_the_readme(accepted: Places, target: Target) -> None:
    assert accepted.local.read() == ([], [])
    assert len(accepted.committed(target).read()[0]) == 12
    assert (
        accepted.root / "tables/counting.csv"
    ).read_text() == "smoke,base,None\nsmoke,twice,None\ncpu,base,5.0\ncpu,twice,10.0\n"
    readme = accepted.readme.read_text()
    assert "| counting | cpu, reduced   | 2 holds " in readme
    assert readme.startswith("# Title\n")
    assert readme.endswith("\nText.\n")


def test_evidence_is_accepted_in_pieces(places: Places, target: Target, run: Callable[..., None]) -> None:
    said: list[str] = []
    run(seeds=2)
    accept(places, target, said.append)
    assert len(places.committed(target).read()[0]) == 8
    assert said[0].startswith("counting cpu: 4 units still lack a record, first counting cpu")
    run()
    accept(places, target, said.append)
    assert len(places.committed(target).read()[0]) == 12
    assert "lack" not in said[-1]


def test_nothing_is_accepted_of_uncommitted_code(places: Places, target: Target, run: Callable[..., None]) -> None:
    run(dirty=True)
    with pytest.raises(ReproError, match=r"counting/cpu/\S+ was made with uncommitted changes on c0ffee"):
        accept(places, target, print)
    assert places.committed(target).read() == ([], [])
    assert len(places.local.read()[0]) == 12


def test_a_start_is_accepted_with_all_that_starts_from_it(
    accepted: Places, target: Target, recorded: Callable[[str], list[Record]]
) -> None:
    """`twice` and `thrice` start from `base`: arms are compared because they share their start."""
    other = pack([False, False, True])
    of_seed = [replace(record, correct={"total": other}) for record in recorded("cpu") if record.seed == 1]
    for record in of_seed:
        if record.unit in ("base", "twice"):
            accepted.local.write(record)
    with pytest.raises(ReproError, match=r"cpu/base\.1\.\w+ is another network than the committed one, which .*thrice"):
        accept(accepted, target, print)
    assert len(accepted.local.read()[0]) == 2
    assert problems(accepted) == []
    for record in of_seed:
        accepted.local.write(record)
    accept(accepted, target, print)
    assert accepted.local.read() == ([], [])


def test_a_forced_run_that_was_broken_off_is_not_accepted(
    places: Places, target: Target, run: Callable[..., None]
) -> None:
    run()
    unit = planned(target, "cpu")[2]
    workspace.write(places.work / key(unit), workspace.Note(unit.numerics, "waiting", asked="a1"))
    with pytest.raises(ReproError, match=r"twice\.0\.\w+ was to run again \(--force\) and has not"):
        accept(places, target, print)
    assert len(places.local.read()[0]) == 12


def test_a_record_that_was_replaced_while_it_was_accepted_stays(
    places: Places, target: Target, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    first = places.local.read()[0][0]
    render = type(target).render
    monkeypatch.setattr(
        type(target), "render", lambda *given: places.local.write(replace(first, threads=7)) and render(*given)
    )
    accept(places, target, print)
    assert [record.threads for record in places.local.read()[0]] == [7]


def test_smoke_runs_are_accepted_only_when_asked_for(places: Places, target: Target, run: Callable[..., None]) -> None:
    run(scale="smoke")
    accept(places, target, print)
    assert places.committed(target).read() == ([], [])
    accept(places, target, print, scale="smoke")
    assert len(places.committed(target).read()[0]) == 4


def test_a_smoke_run_is_a_run_where_one_is_accepted_too(
    accepted: Places, target: Target, run: Callable[..., None]
) -> None:
    assert (
        evaluate.outlook(target, evaluate.Request(scale="cpu"), accepted) == "counting cpu: 0 units to run, 12 recorded"
    )
    run(scale="smoke")
    smoke = evaluate.Request(scale="smoke")
    assert evaluate.outlook(target, smoke, accepted).startswith("counting smoke: 0 units to run, 4 recorded")
    accept(accepted, target, print, scale="smoke")
    assert evaluate.outlook(target, smoke, accepted).startswith("counting smoke: 4 units to run, 0 recorded")


def test_accepting_a_scale_leaves_the_others_alone(accepted: Places, target: Target, run: Callable[..., None]) -> None:
    run(scale="smoke")
    accept(accepted, target, print, scale="smoke")
    scales = [record.scale for record in accepted.committed(target).read()[0]]
    assert (scales.count("cpu"), scales.count("smoke")) == (12, 4)


def test_records_of_other_numerics_are_not_accepted(
    places: Places, target: Target, recorded: Callable[[str], list[Record]]
) -> None:
    for record in recorded("cpu"):
        places.local.write(replace(record, numerics=record.numerics - 1))
    accept(places, target, print)
    assert places.committed(target).read() == ([], [])
    assert len(places.local.read()[0]) == 12


def test_accepting_removes_what_is_planned_no_more(accepted: Places, target: Target) -> None:
    fewer = replace(target, seeds={"smoke": 1, "cpu": 2})  # type: ignore[type-var]
    accept(accepted, fewer, print, scale="cpu")
    assert {record.seed for record in accepted.committed(target).read()[0]} == {0, 1}


def test_the_check_passes_after_accepting(accepted: Places) -> None:
    assert problems(accepted) == []


def test_the_check_compares_renders_by_content(accepted: Places) -> None:
    rendered = accepted.root / "tables/counting.csv"
    good = rendered.read_bytes()
    rendered.write_bytes(good + b"\n")
    assert problems(accepted) == [
        "tables/counting.csv: differs from what the committed records give; python -m repro accept counting"
    ]
    rendered.unlink()
    assert problems(accepted) == ["tables/counting.csv: missing; python -m repro accept counting"]
    rendered.write_bytes(good)
    (accepted.root / "tables/counting_points.csv").touch()
    assert problems(accepted) == ["tables/counting_points.csv: no longer rendered; delete it"]


def test_the_check_compares_the_readme(accepted: Places) -> None:
    text = accepted.readme.read_text()
    accepted.readme.write_text(text.replace("2 holds", "3 holds"))
    assert problems(accepted) == ["README.md: its tables are not today's; python -m repro accept TARGET renews them"]
    accepted.readme.unlink()
    assert problems(accepted) == ["README.md: missing; bring it back: git checkout"]
    accepted.readme.write_text("# Title")
    lines = "<!-- claims:begin --> and <!-- claims:end -->"
    assert problems(accepted) == [f"README.md: no claims table in it; add the lines {lines}"]


def test_the_check_compares_every_claim_with_the_baseline(accepted: Places, capsys: pytest.CaptureFixture[str]) -> None:
    text = accepted.baseline.read_text()
    claim = "counting,base counts,pattern,cpu,base,total,"
    assert f"{claim}holds,ok\n" in text
    remedy = "python -m repro status --accept-baseline"
    name = "counting base counts pattern cpu base total"
    for edited, line in (
        (text.replace(f"{claim}holds,ok", f"{claim}inconclusive,ok"),
         f"{name}: better: was inconclusive (ok), is holds (ok); take it as the baseline: {remedy}"),
        (text.replace(f"{claim}holds,ok\n", ""), f"{name}: new claim, not in the baseline; {remedy}"),
        (f"{text}counting,gone,pattern,cpu,,,holds,ok\n",
         f"counting gone pattern cpu: in the baseline, made no more; {remedy}"),
    ):  # fmt: skip
        accepted.baseline.write_text(edited)
        assert problems(accepted) == [line]
        assert main(["status", "--check"], accepted) == 1
        out, err = capsys.readouterr()
        assert line in err
        assert line not in out
    assert main(["status", "--accept-baseline"], accepted) == 0
    assert accepted.baseline.read_text() == text
    assert main(["status", "--check"], accepted) == 0
    accepted.baseline.write_text(text.replace("counting", "<<<<<<< HEAD\ncounting", 1))
    assert main(["status", "--check"], accepted) == 3
    assert "baseline.csv, line 2: not a claim; bring the file back: git checkout" in capsys.readouterr().err
    accepted.baseline.unlink()
    assert problems(accepted) == [f"baseline.csv: missing; {remedy}"]


def test_a_lost_record_is_worse(accepted: Places, target: Target) -> None:
    next((accepted.root / "tables/records/counting/cpu").glob("base.1*")).unlink()
    assert (
        "counting base counts pattern cpu base total: worse: was holds (ok), is holds (missing); find out why"
        in problems(accepted)
    )


def test_a_damaged_record_is_named_and_nothing_is_accepted_over_it(accepted: Places, target: Target) -> None:
    path = next((accepted.root / "tables/records/counting/cpu").glob("base.1*"))
    path.write_text(path.read_text()[:100])
    first, *rest = problems(accepted)
    assert first == f"{path}: truncated, or not JSON; bring it back: git checkout"
    assert not any("accept" in line for line in rest)
    before = accepted.readme.read_text()
    with pytest.raises(ReproError, match="truncated, or not JSON; bring it back: git checkout"):
        accept(accepted, target, print)
    assert accepted.readme.read_text() == before


def test_findings_are_the_preregistered_patterns_that_have_a_verdict() -> None:
    row = Row(
        target="table1", claim="dq32_at_chance", kind="pattern", scale="cpu", ours=0.0066, low=-0.069, high=0.0825,
        margin=1.6, verdict="holds",
    )  # fmt: skip
    judged = {"table1": [row, replace(row, scale="print"), replace(row, verdict=""), replace(row, claim="other")]}
    *_, line = status.as_findings(judged).splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "table1", "cpu", "DQ (32 bit) is at chance at every bit-width.", "0.0066", "-0.069 to 0.0825", "1.6", "holds"
    ]  # fmt: skip
    assert len(status.as_findings(judged).splitlines()) == 3


def test_other_numerics_make_accepted_records_stale(accepted: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NUMERICS", "2")
    assert "worse: was holds (ok), is holds (stale)" in "\n".join(problems(accepted))


def test_every_format_shows_the_same_claims(
    accepted: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(style: str) -> str:
        assert main(["status", "--format", style], accepted) == 0
        return capsys.readouterr().out

    assert " ".join(shown("table").splitlines()[2].split()) == "counting cpu, reduced 2 holds 2 ok"
    assert shown("md") in accepted.readme.read_text()
    answer = json.loads(shown("json"))
    assert len(answer["claims"]) == 4
    assert answer["targets"][1] == {
        "target": "counting", "scale": "cpu", "reduced_scale": True, "verdicts": {"holds": 2}, "states": {"ok": 2}
    }  # fmt: skip
    accepted.baseline.write_text(accepted.baseline.read_text().replace("holds", "fails"))
    suite = ElementTree.fromstring(shown("junit"))
    assert (suite.get("tests"), suite.get("failures")) == ("4", "2")
    assert [case.find("skipped") is not None for case in suite] == [True, True, False, False]
    assert [case.find("failure") is not None for case in suite] == [False, False, True, True]
    summary = accepted.root / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert shown("github").startswith("::error title=status::counting base counts pattern cpu base total: better")
    assert "| counting |" in summary.read_text()
