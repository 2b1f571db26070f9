"""Table 3's real pipeline on a folder in ImageNet's layout: JPEGs, few steps; in one process and in two together.

Two processes on half a batch each end where one process does that normalises the same two halves separately.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from repro import targets
from repro.cli import main
from repro.evidence.records import Store
from repro.networks.resnet import ResNet18
from repro.targets import Context, Outcome, planned
from repro.training import distributed, loop
from repro.training.loop import load, save
from tests.datasets import made_up
from tests.training import two

# Small learning rates, and batch norms over enough values: else rounding errors grow a hundredfold a step.
SMALL = {"width": 8, "classes": 3, "image_size": 64, "batch": 8, "fp32_epochs": 2, "epochs": 1, "bn_images": 8,
         "alpha_images": 8, "fp32_lr": 1e-3, "lr": 1e-3, "weight_lr": 1e-4, "alpha_lr": 1e-3}  # fmt: skip
# As each of the two processes has: with more, sums of another order turn a code, and a batch norm, over.
pytestmark = pytest.mark.usefixtures("one_thread")
TABLE3 = targets.get("table3")
FORWARD = ResNet18.forward
UNITS = {unit.name: unit for unit in planned(TABLE3, "paper", changes={key: str(v) for key, v in SMALL.items()})}
UNITS["coquant"] = replace(UNITS["coquant"], settings={**UNITS["coquant"].settings, "batch": 24})
"""One step: after it a value that rounds to another code, by an error in its last digit, is another value."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.imagenet(tmp_path_factory.mktemp("data"), classes=3, train=8, val=5)


def run(name: str, root: Path, folder: Path, start: Path | None = None) -> Outcome:
    """A unit, from the artefacts in the folder `start`, by default the same."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    inputs = {each: (start or folder) / each for each in UNITS[name].requires}
    return TABLE3.run(UNITS[name], Context(folder / name, root, inputs=inputs))


def by_halves(network: ResNet18, x: torch.Tensor) -> torch.Tensor:
    """In training the two halves of the batch go through one after the other, as through two processes.

    Running statistics end where the mean of both halves' would move them.
    """
    if not network.training:
        return FORWARD(network, x)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    outputs, moved = [], []
    for half in x.chunk(2):
        for norm, (mean, variance, batches) in zip(norms, before, strict=True):
            norm.running_mean, norm.running_var = mean.clone(), variance.clone()
            norm.num_batches_tracked = batches.clone()
        outputs.append(FORWARD(network, half))
        moved.append([(norm.running_mean, norm.running_var) for norm in norms])
    for norm, first, second in zip(norms, *moved, strict=True):
        norm.running_mean, norm.running_var = ((one + other) / 2 for one, other in zip(first, second, strict=True))
    return torch.cat(outputs)


class KilledError(Exception):
    """Stands for a kill."""


def _together(number: int, root: Path, folder: Path) -> dict[str, Outcome]:
    """Units of Table 3, the first one stopped in the middle of an epoch and resumed."""
    loop.CHECKPOINT_SECONDS = 0.0

    def stop(done: int, total: int, note: str) -> None:
        if done == 5:
            raise KilledError

    (folder / "fp32").mkdir(parents=True, exist_ok=True)
    with pytest.raises(KilledError):
        TABLE3.run(UNITS["fp32"], Context(folder / "fp32", root, progress=stop))
    distributed.barrier()
    assert load(folder / "fp32" / "checkpoint.pt")["step"] == 5
    found = {}
    for name in ("fp32", "coquant", "dq32_bn_calib"):
        found[name] = run(name, root, folder)
        distributed.barrier()
    return found


def test_two_processes_are_one_that_normalises_the_halves_separately(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The FP32 start; CoQuant (four passes a step, teachers by entropy, swapped blocks); calibrated batch norms."""
    both, follower = two.run(_together, tmp_path / "rendezvous", root, tmp_path / "both")
    monkeypatch.setattr(ResNet18, "forward", by_halves)
    for name, found in both.items():
        alone = run(name, root, tmp_path / "alone", start=tmp_path / "both")
        assert found.curve == follower[name].curve
        losses = [[point["loss"] for point in one.curve] for one in (found, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for column, hits in alone.correct.items():
            assert len(hits) == 15
            np.testing.assert_array_equal(found.correct[column], hits)
            np.testing.assert_array_equal(follower[name].correct[column], hits)
        theirs, ours = (
            load(tmp_path / folder / name / "network.pt") if alone.curve else {} for folder in ("both", "alone")
        )
        assert theirs.keys() == ours.keys()
        for key, tensor in ours.items():
            torch.testing.assert_close(theirs[key], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


EPOCHS = 6


@contextmanager
def torchrun(root: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One unit of Table 3, in two processes; what they say goes to files in `out`."""
    options = [f"--set={name}={value}" for name, value in (SMALL | {"fp32_epochs": EPOCHS}).items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "repro"]
    target = ["table3", "--scale=paper", *options, f"--out={out}", f"--data-root={root}", "--limit=1"]
    with (out / "stdout").open("wb") as page, (out / "stderr").open("wb") as errors:
        process = subprocess.Popen([*command, *target], stdout=page, stderr=errors)
        try:
            yield process
        finally:
            process.terminate()  # and with it those that it has started
            process.wait(timeout=60)


def said(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("repro: ")]


def test_torchrun_starts_it_and_goes_on(root: Path, tmp_path: Path) -> None:
    """Told to end, as a cluster's scheduler does, and started again."""
    deadline = time.monotonic() + 300
    with torchrun(root, tmp_path) as process:
        while not (found := list(tmp_path.glob("work/table3/paper/fp32.*/checkpoint.pt"))):
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    interrupted = "repro: interrupted; work is saved: give the same command again to go on"
    assert set(said((tmp_path / "stderr").read_text())) == {interrupted}
    assert Store(tmp_path / "records").read("table3") == ([], [])
    state = load(found[0])
    assert len(state["curve"]) < EPOCHS
    state["curve"][0]["loss"] = 1234.5  # a mark: training from the start would not come upon this number
    save(state, found[0])
    with torchrun(root, tmp_path) as process:
        process.wait(timeout=400)
    page, errors = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    assert process.returncode == 0, errors
    assert said(errors) == ["repro: table3 paper: 1 done, 14 left"]
    assert page.count("# Table 3: ResNet18 on ImageNet") == 1
    (record,), damaged = Store(tmp_path / "records").read("table3")
    assert (record.unit, record.workers, len(record.curve), damaged) == ("fp32", 2, EPOCHS, [])
    assert record.curve[0]["loss"] == 1234.5


@pytest.mark.parametrize("name", ["table3", "table4"])
def test_missing_data_are_one_line_that_says_what_to_do(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--scale=paper", f"--out={tmp_path}", f"--data-root={tmp_path}"]) == 3
    (line,) = said(capsys.readouterr().err)
    assert "is not here" in line
    assert "--data-root or REPRO_DATA" in line
