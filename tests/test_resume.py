"""A training that is really killed, started again, ends with the records of one that never was."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import torch

from repro import datasets, runner, targets
from repro.evidence.records import Record, Store
from repro.runner import Setup, execute, plan
from tests.training import two

SMALL = {
    "width": 8, "train_images": 96, "test_images": 50, "batch": 16, "fp32_epochs": 4, "epochs": 4, "bn_images": 64,
    "alpha_images": 64,
}  # fmt: skip


def work(out: Path, units: int) -> None:
    """What the command does, but for rendering, in a session of its own; its worker has torch from here."""
    os.setsid()
    torch.set_num_threads(1)
    runner.multiprocessing = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    os.environ.pop("REPRO_BACKEND", None)  # which an earlier test may have given to the server
    target, setup = targets.get("table1"), Setup(out)
    changes = {name: str(value) for name, value in SMALL.items()}
    execute(plan(target, targets.planned(target, "smoke", 1, changes), setup), setup, limit=units)


@contextmanager
def started(out: Path, units: int) -> Iterator[BaseProcess]:
    process = two.forkserver().Process(target=work, args=(out, units))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def finish(out: Path, units: int) -> None:
    with started(out, units) as process:
        process.join(300)
        assert process.exitcode == 0


def kill_once(pattern: str, out: Path, units: int) -> None:
    """Start the command, and kill it with all its processes once a file that matches `pattern` is there."""
    deadline = time.monotonic() + 300
    with started(out, units) as process:
        while not list(out.glob(pattern)):
            assert process.is_alive(), "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)


def records(out: Path) -> dict[str, Record]:
    found, damaged = Store(out / "records").read("table1")
    assert not damaged
    return {record.key: record for record in found}


def test_killed_and_started_again_equals_unbroken(tmp_path: Path) -> None:
    """Killed in the FP32 training and again in the quantized one: values, settings, correctness and curve are equal."""
    datasets.fetch("cifar10")
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finish(unbroken, units=2)
    kill_once("work/table1/smoke/fp32.*/checkpoint.pt", broken, units=2)
    assert not records(broken)
    kill_once("work/table1/smoke/individual_8.*/checkpoint.pt", broken, units=2)
    assert {record.unit for record in records(broken).values()} == {"fp32"}
    finish(broken, units=1)
    expected, found = records(unbroken), records(broken)
    assert {record.unit for record in found.values()} == {"fp32", "individual_8"}
    assert expected.keys() == found.keys()
    assert {record.backend for record in found.values()} == {"fused"}
    for key, record in expected.items():
        assert found[key].outcome() == record.outcome()
