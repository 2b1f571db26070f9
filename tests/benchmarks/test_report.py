"""What is made of a race's samples: rows, ratios that hold or do not, and a record that keeps what compares."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from repro import hardware
from tests.benchmarks import report
from tests.benchmarks.race import Race
from tests.benchmarks.report import Promise, Row


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "machine", lambda: {"cpu": "Some CPU", "cores": 2, "gpu": None, "torch": "2.14"})
    return tmp_path


def raced(**milliseconds: list[float]) -> list[Row]:
    """Rows of a race with these samples, of 1000 elements of which 8 bytes each have to be moved."""
    race = Race({name: lambda: None for name in milliseconds})
    race.samples = {name: [ms / 1e3 for ms in samples] for name, samples in milliseconds.items()}
    copied = 8000 if "copy" in race.samples else None
    return report.rows(race, "forward", "1 k float32", base="fused", bytes_moved=8000, bytes_copied=copied)


def test_a_row_is_the_median_the_bandwidth_and_two_ratios() -> None:
    copy, fused, eager = raced(copy=[1.0, 2.0, 9.0], fused=[4.0] * 3, eager=[12.0] * 3)
    assert (copy.ms, copy.samples, copy.disturbed, fused.disturbed) == (2.0, 3, True, False)
    assert (copy.p20, copy.p80) == (1.4, 6.2)
    assert (fused.gb_per_s, fused.of_copy, fused.of_base) == (0.002, 0.5, 1.0)
    assert (eager.of_copy, eager.of_base, eager.base) == (0.1667, 3.0, "fused")


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"at_least": 3.0}, "yes"),
        ({"at_least": 3.1}, "NO"),
        ({"at_most": 3.0}, "yes"),
        ({"at_most": 2.9}, "NO"),
    ],
)
def test_a_promise_is_judged_by_the_medians(limits: dict[str, float], said: str) -> None:
    rows = raced(fused=[4.0] * 3, eager=[12.0] * 3)
    promise = Promise("forward", ("1 k float32", "1 M float32"), "eager", "fused", **limits)
    other = ("1 M float32", None, "missing")
    assert promise.judge(rows) == [("1 k float32", 3.0, said), other]
    assert promise.judge([replace(row, p80=99.0) for row in rows]) == [("1 k float32", 3.0, "disturbed"), other]
    assert promise.judge([replace(row, peak_mib=None) for row in rows[:1]])[0] == ("1 k float32", None, "missing")


def test_a_promise_of_one_row_is_its_time() -> None:
    promise = Promise("forward", ("1 k float32",), "eager", None, at_most=12)
    assert promise.judge(raced(fused=[4.0] * 3, eager=[12.0] * 3)) == [("1 k float32", 12.0, "yes")]
    assert promise.judge([]) == [("1 k float32", None, "missing")]


def test_a_promise_without_rows_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    promise = Promise("forward", ("1 k float32", "1 M float32"), "eager", "fused", at_least=3)
    on_gpu = replace(promise, data=("64 M float32 on GPU",))
    monkeypatch.setattr(report, "PROMISES", (promise, on_gpu))
    rows = raced(fused=[4.0] * 3, eager=[12.0] * 3)

    def cells(gpu: str | None) -> list[list[str]]:
        lines = report.promises(rows, {"gpu": gpu}).splitlines()
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]

    assert cells(None) == [
        ["forward", "1 k float32", "eager / fused", "3.00", "≥ 3", "yes"],
        ["forward", "1 M float32", "eager / fused", "", "≥ 3", "missing"],
    ]
    assert cells("Some GPU") == [["forward", "64 M float32 on GPU", "eager / fused", "", "≥ 3", "missing"]]


def test_a_record_keeps_other_rows_and_drops_what_other_versions_timed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = raced(fused=[4.0] * 3, eager=[12.0] * 3)
    assert report.merge(old) == old
    other = [replace(row, data="1 M float32") for row in old]
    assert report.merge(other) == [*old, *other]
    (new,) = raced(fused=[5.0] * 3)  # of the same race: the old one's contenders do not compare
    assert report.merge([new]) == [*other, new]
    (path,) = folder.glob("*.json")
    assert path.name == "some-cpu-2-cores.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"machine": content["machine"] | {"av": "18"}}))  # nothing timed depends on it
    assert report.merge([]) == [*other, new]
    monkeypatch.setattr(report, "machine", lambda: {"cpu": "Some CPU", "cores": 2, "gpu": None, "torch": "2.15"})
    assert report.merge([new]) == [new]


def test_another_brevitas_drops_its_own_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def about(version: str | None) -> dict:
        return {"cpu": "Some CPU", "cores": 2, "gpu": None, "torch": "2.14", "brevitas": version}

    monkeypatch.setattr(report, "machine", lambda: about("0.12"))
    rows = report.merge(raced(fused=[4.0] * 3, brevitas=[12.0] * 3))
    monkeypatch.setattr(report, "machine", lambda: about("0.13"))
    assert report.merge([]) == rows[:1]


def test_what_timings_depend_on_and_the_page_that_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    about = report.machine()
    assert about["cpu"] == hardware.cpu()
    assert about["torch"] == hardware.versions()["torch"]
    assert not {"av", "onnx"} & about.keys()
    monkeypatch.setattr(report, "FOLDER", folder)
    report.page(raced(copy=[1.0] * 3, fused=[4.0] * 3), about | {"cpu": "Some CPU", "gpu": None, "cores": 2})
    page = (folder / "some-cpu-2-cores.md").read_text()
    assert page.startswith("# Benchmarks: Some CPU, 2 cores\n\npython ")
    assert "## Promises" in page
    assert (folder / "some-cpu-2-cores.svg").exists()
