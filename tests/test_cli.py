"""The command line: exit codes, one-line errors with suggestions, what goes to which stream, and how it is stopped."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from repro import datasets, evaluate, targets
from repro.cli import main
from repro.errors import ReproError
from repro.evidence.preregistration import preregistered
from repro.evidence.records import Store
from repro.networks import onnx_export
from repro.places import PREREGISTRATION, Places

pytestmark = pytest.mark.usefixtures("coarse", "fakes", "here")
Start = Callable[..., subprocess.Popen[str]]
SLOW = ("counting", "--scale", "smoke", "--set", "seconds=0.3", "--set", "steps=4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REPRO_BACKEND", raising=False)


def call(arguments: str) -> int:
    return main(arguments.split())


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ("tabel1", 2, "did you mean table1?"),
        ("stats", 2, "did you mean status?"),
        ("counting --scale cup", 2, "did you mean cpu?"),
        ("counting --scale gpu", 2, "there is counting: smoke, cpu"),
        ("counting --scale cpu --set stesp=2", 2, "did you mean steps?"),
        ("counting --scale cpu --set steps=two", 2, "expected int, like steps=5"),
        ("counting --scale cpu --set steps", 2, "expected KEY=VALUE"),
        ("figure2 --set width=8", 2, "nothing is trained"),
        ("counting --backend egaer", 2, "did you mean 'eager'?"),
        ("counting --scale smoke --backend reference", 2, "nothing can be trained with it"),
        ("table1 --scale smoke --set bn_images=10", 2, "bn_images=10: give at least batch=128"),
        ("ptq --scale cpu --seeds 106", 2, "there are 10000 test images, each used once"),
        ("contest --scale cpu --set train_images=50000", 2, "45000 are left beside those held out"),
        ("counting --device cdua", 2, "did you mean cuda?"),
        ("counting --seeds 0", 2, "--seeds"),
        ("counting --limit 0", 2, "--limit"),
        ("counting --shard 3/2", 2, "like 1/4"),
        ("counting --shard ²/4", 2, "like 1/4"),
        ("counting --seeds 99999999999", 2, "--seeds"),
        ("counting --force", 2, "--force is about what is run: say --scale too"),
        ("counting --limit 1", 2, "--limit is about what is run"),
        ("counting --shard 1/2", 2, "--shard is about what is run"),
        ("counting --scale cpu --set steps=2 --set steps=3", 2, "--set steps: given twice"),
        ("counting --out=", 2, "an empty folder name"),
        ("counting list", 2, "list is a command of its own"),
        ("counting --sed 1", 2, "--seeds"),
        ("--scale cpu", 2, "TARGET"),
        ("accept conting", 2, "did you mean counting?"),
        ("accept table3 --scale cpu", 2, "not built at scale cpu"),
        ("accept counting --scale cpu", 3, "nothing of it is recorded"),
        ("data cifar", 2, "cifar10"),
        ("status --format yaml", 2, "--format"),
        ("table3 --out file", 3, "file: File exists; choose another folder"),
        ("counting --scale smoke --out file/below", 3, "file/below: Not a directory; choose another folder"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    arguments: str, code: int, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert call(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert part in err
    assert err.count("\n") == 1


def test_cuda_where_there_is_none_is_a_missing_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert call("counting --scale smoke --device cuda") == 3
    assert capsys.readouterr().err == "repro: no device cuda on this machine; leave out --device, or say --device cpu\n"
    assert call("counting --scale smoke --device cpu:7") == 2
    assert capsys.readouterr().err == "repro: no device 'cpu:7': did you mean cpu?\n"


def test_an_internal_error_hints_at_debug_which_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets, "describe", lambda name: 1 / 0)
    assert call("data cifar10") == 70
    assert capsys.readouterr().err.startswith("repro: internal error, ZeroDivisionError: division by zero; run again")
    assert call("data cifar10 --debug") == 70
    assert "Traceback" in capsys.readouterr().err


def test_missing_data_is_a_line_and_the_recorded_is_shown_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*arguments: object) -> None:
        raise ReproError("no source gave the fingers")

    monkeypatch.setattr(datasets, "fetch", unreachable)
    monkeypatch.setattr("fake_targets.COUNTING", replace(targets.get("counting"), needs=("fingers",)))
    assert call("counting --scale smoke") == 3
    out, err = capsys.readouterr()
    assert err == "repro: counting: no source gave the fingers\n"
    assert out == "committed 0, local 0\n"


def test_a_target_that_is_not_ready_is_one_line_and_no_unit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    assert call("size_latency --scale smoke") == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("repro: size_latency: onnx, onnxscript, onnxruntime not installed; run: pip install")


def test_failing_units_are_lines_and_the_worst_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("counting --scale smoke --set fail=base:data") == 3
    assert "failed: counting needs fingers; buy some" in capsys.readouterr().err
    assert call("counting --scale smoke --set fail=twice:bug --debug") == 70
    assert "Traceback" in capsys.readouterr().err


def test_results_go_to_stdout_and_progress_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("counting figure2 --scale smoke") == 0
    out, err = capsys.readouterr()
    assert out.startswith("committed 0, local 4\n\n")
    assert "[4/4] counting smoke" in err
    assert "figure2 smoke: nothing to run" in err
    assert call("counting --scale smoke") == 0
    assert capsys.readouterr().err == "repro: counting smoke: 4 recorded\n"
    assert {path.name for path in Path("runs").iterdir()} >= {"counting.csv", "figure2.csv", "records", "work"}


def test_json_holds_every_claim_of_both_stores(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("counting --json") == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["rendered"] == ["runs/counting.csv"]
    assert {row["state"] for row in answer["committed"] + answer["local"]} == {"missing"}
    assert call("list --json") == 0
    assert "counting" in [one["target"] for one in json.loads(capsys.readouterr().out)]
    assert call("env --json") == 0
    assert {"versions", "cpu", "commit", "dirty"} <= json.loads(capsys.readouterr().out).keys()


def test_a_dry_run_says_what_would_run_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("counting --scale cpu --dry-run --limit 2 --shard 2/3") == 0
    assert capsys.readouterr().out.splitlines() == [
        "counting cpu: 2 units to run, 0 recorded",
        "  base, seed 1",
        "  loose, seed 1",
    ]
    assert list(Path().iterdir()) == []


def test_changed_settings_are_typed_and_recorded_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("counting --scale smoke --set steps=2 --set loud=yes --limit 1") == 0
    (record,), _ = Store(Path("runs/records")).read()
    assert (record.settings["steps"], record.settings["loud"]) == (2, True)
    assert capsys.readouterr().out == "committed 0, local 1\n"
    assert call("counting") == 0
    assert capsys.readouterr().out == "committed 0, local 0\n"


def test_a_truncated_record_is_one_line_and_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    call("counting --scale smoke")
    path = next(Path("runs/records/counting/smoke").glob("loose*"))
    path.write_text(path.read_text()[:50])
    capsys.readouterr()
    assert call("counting") == 0
    assert capsys.readouterr().err.count("\n") == 1
    assert call("counting --scale smoke") == 0
    out, err = capsys.readouterr()
    assert f"{path}: truncated" in err
    assert out == "committed 0, local 4\n"


def test_a_record_of_a_later_version_is_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("counting --scale smoke") == 0
    path = next(Path("runs/records").rglob("*.json"))
    later = path.read_text().replace('"format": 1', '"format": 2')
    path.write_text(later)
    capsys.readouterr()
    assert call("counting --scale smoke") == 3
    err = capsys.readouterr().err
    assert f"{path}: record format 2; this version reads 1; update the checkout" in err
    assert err.count("\n") == 1
    assert call("counting") == 0
    assert path.read_text() == later


def test_what_a_command_asks_for_reaches_its_runner_with_the_plan_of_its_study(tmp_path: Path) -> None:
    asked = evaluate.Request(scale="smoke", force=True, backend="eager", workers=3, data_root=tmp_path)
    setup = evaluate._setup(targets.get("table1"), asked, Places(out=tmp_path / "out"))
    assert (setup.force, setup.backend, setup.workers, setup.data_root) == (True, "eager", 3, tmp_path)
    assert setup.out == tmp_path / "out"
    assert setup.preregistration == preregistered(PREREGISTRATION, "table1")[1] != ""


def test_a_forced_command_runs_all_anew(tmp_path: Path) -> None:
    for lines in (6, 12):
        assert call("counting --scale smoke --force") == 0
        assert len((tmp_path / "runs/work/counting/smoke/log").read_text().splitlines()) == lines


# --- with a real process -------------------------------------------------------------------------------------------


def test_commands_without_training_import_nothing_heavy() -> None:
    code = "import sys; from repro.cli import main; sys.exit(main(['list']) or main(['table3']) or print(*sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(run.stdout.splitlines()[-1].split())
    assert imported.isdisjoint({"torch", "torchvision", "pandas", "matplotlib", "rich"})
    assert "repro.evaluate" in imported


def test_a_full_disk_is_one_line_and_leaves_no_record(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    run = subprocess.run(
        [sys.executable, "-m", "repro", "table3"], cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True
    )
    assert run.returncode == 3
    assert "File too large; free some space" in run.stderr
    assert run.stderr.count("\n") == 1


def test_an_interrupt_saves_the_work_and_the_same_command_goes_on(suite: Start, tmp_path: Path) -> None:
    log = tmp_path / "runs/work/counting/smoke/log"
    process = suite(*SLOW)
    wait_for(log)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "repro: interrupted; work is saved: give the same command again to go on"
    assert "Traceback" not in err
    assert suite(*SLOW).wait() == 0
    steps = [line for line in log.read_text().splitlines() if line.startswith("base")]
    assert steps == sorted(set(steps))  # no step was counted twice
    assert steps[-1] == "base 0 3"


def test_a_killed_command_leaves_no_process_and_ends_with_equal_records(suite: Start, tmp_path: Path) -> None:
    log = tmp_path / "runs/work/counting/smoke/log"
    killed = suite(*SLOW)
    wait_for(log)
    killed.kill()
    killed.communicate(timeout=120)  # ends only when the workers, who share the pipes, have ended too
    assert [process.wait() for process in (suite(*SLOW), suite(*SLOW, "--out", "unbroken"))] == [0, 0]
    broken, unbroken = (Store(tmp_path / out / "records").read()[0] for out in ("runs", "unbroken"))
    assert [record.outcome() for record in broken] == [record.outcome() for record in unbroken]
    assert len(broken) == 4


def test_a_reader_that_has_gone_ends_the_command_and_only_lost_messages_are_a_failure(
    suite: Start, tmp_path: Path
) -> None:
    log = tmp_path / "runs/work/counting/smoke/log"
    process = suite(*SLOW, "--set", "loud=yes")
    wait_for(log)
    process.stderr.close()
    process.stdout.close()
    assert process.wait(timeout=120) == 130
    process = suite("counting")
    process.stdout.close()
    assert process.wait(timeout=120) == 0


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
