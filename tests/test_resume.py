"""A training that is really killed, started again, ends with the records of one that never was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from repro import datasets
from repro.evidence.records import Record, Store

SMALL = {
    "width": 8, "train_images": 96, "test_images": 50, "batch": 16, "fp32_epochs": 4, "epochs": 4, "bn_images": 64,
    "alpha_images": 64,
}  # fmt: skip


CODE = """
import sys
from pathlib import Path
from repro import targets
from repro.runner import Setup, execute, plan
target, setup = targets.get("table1"), Setup(Path(sys.argv[1]))
changes = dict(change.split("=") for change in sys.argv[3:])
execute(plan(target, targets.planned(target, "smoke", 1, changes), setup), setup, limit=int(sys.argv[2]))
"""
"""What the command does, but for rendering."""


def start(out: Path, units: int) -> subprocess.Popen:
    settings = [f"{name}={value}" for name, value in SMALL.items()]
    return subprocess.Popen(
        [sys.executable, "-c", CODE, out, str(units), *settings],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != "REPRO_BACKEND"},
    )


def kill_once(pattern: str, out: Path, units: int) -> None:
    """Start the command, and kill it with all its processes once a file that matches `pattern` is there."""
    process = start(out, units)
    deadline = time.monotonic() + 300
    while not list(out.glob(pattern)):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def records(out: Path) -> dict[str, Record]:
    found, damaged = Store(out / "records").read("table1")
    assert not damaged
    return {record.key: record for record in found}


def test_killed_and_started_again_equals_unbroken(tmp_path: Path) -> None:
    """Killed in the FP32 training and again in the quantized one: values, settings, correctness and curve are equal."""
    datasets.fetch("cifar10")
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert start(unbroken, units=2).wait() == 0
    kill_once("work/table1/smoke/fp32.*/checkpoint.pt", broken, units=2)
    assert not records(broken)
    kill_once("work/table1/smoke/individual_8.*/checkpoint.pt", broken, units=2)
    assert {record.unit for record in records(broken).values()} == {"fp32"}
    assert start(broken, units=1).wait() == 0
    expected, found = records(unbroken), records(broken)
    assert {record.unit for record in found.values()} == {"fp32", "individual_8"}
    assert expected.keys() == found.keys()
    assert {record.backend for record in found.values()} == {"fused"}
    for key, record in expected.items():
        assert found[key].outcome() == record.outcome()
