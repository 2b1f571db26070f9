"""The exhaustive sweep: what it expects is the reference, what it counts are the differences, and it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backends import eager, reference, sweep
from backends.sweep import Setting
from tests.backends.cases import assert_equal
from tests.strategies import grid, specials, tie_grid

SETTINGS = [setting for setting in sweep.settings(sweep.BIT_WIDTHS) if setting.dtype == "float32"]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_expected_is_the_reference(setting: Setting) -> None:
    levels = grid(setting.bits, setting.signed, setting.step)
    anything = np.random.default_rng(0).integers(2**32, size=999, dtype=np.uint32).view(np.float32)
    x = np.concatenate([tie_grid(levels), specials(levels), anything])
    codes, values = sweep.expected(x, *setting.parameters)
    assert_equal(codes, reference.codes(x, *setting.parameters))
    assert_equal(values, reference.forward(x, *setting.parameters))


def test_settings_are_distinct_and_valid() -> None:
    every = sweep.settings(sweep.BIT_WIDTHS)
    assert len(set(every)) == len(every) == 2 * 2 * 7 * (len(sweep.ORDINARY) + len(sweep.HARD) + 1)


BFLOAT16 = [setting for setting in sweep.settings(sweep.BIT_WIDTHS) if setting.dtype == "bfloat16"]


@pytest.mark.parametrize("setting", BFLOAT16[::5], ids=str)
def test_all_of_bfloat16(setting: Setting) -> None:
    """Every fifth setting, which takes each width, signed and unsigned, and each step in turn."""
    outcome = sweep.sweep(setting, "fused")
    assert (outcome.inputs, outcome.codes, outcome.values) == (2**16, 0, 0)


def test_differences_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a backend that multiplies by the reciprocal and has but one value."""
    setting = Setting("float32", bits=8, signed=False, step=0.1)
    step, lower, upper = np.float32(setting.parameters)
    monkeypatch.setattr(eager, "codes", lambda x, *_: torch.round(x.clamp(lower, upper) * (1 / step)).int())
    monkeypatch.setattr(eager, "forward", lambda x, *_: torch.zeros_like(x))
    ties = np.sort(tie_grid(grid(8, signed=False, step=0.1)))
    wrong = [x for x in ties if np.rint(x * (1 / step)) != np.rint(x / step)]
    pattern = int(wrong[5].view(np.uint32))
    assert wrong[5] > step
    outcome = sweep.sweep(setting, "eager", inputs=range(pattern, pattern + 1))
    assert (outcome.inputs, outcome.codes, outcome.values) == (1, 1, 1)


def test_a_second_run_goes_on_and_other_code_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [Setting("bfloat16", bits, signed=True, step=0.1) for bits in (2, 3)]
    monkeypatch.setattr(sweep, "settings", lambda widths: [setting for setting in few if setting.bits in widths])
    monkeypatch.setattr(sweep, "run", lambda todo, backend, *_: (sweep.sweep(setting, backend) for setting in todo))
    out = tmp_path / "sweep.json"
    command = ["--backend", "eager", "--out", str(out)]

    def run(*more: str) -> tuple[str, str]:
        assert sweep.main([*command, *more]) == 0
        return capsys.readouterr()

    assert "1 of 1" in run("--bits", "2").err
    assert "1 of 1" in run().err
    assert run().err == ""
    assert "131072 inputs, 0 differing codes, 0 differing values" in run().out
    assert [row["setting"]["bits"] for row in json.loads(out.read_text())["outcomes"]] == [2, 3]
    kept = out.read_bytes()
    for name, other in (("sources", lambda *_: "other"), ("machine", lambda: {"cpu": "other"})):
        with monkeypatch.context() as patch:
            patch.setattr(sweep, name, other)
            assert sweep.main(command) == 2
        assert capsys.readouterr().err.endswith("give another file by --out, or delete this one to start anew\n")
        assert out.read_bytes() == kept
    out.unlink()
    monkeypatch.setattr(eager, "forward", lambda x, *_: torch.zeros_like(x))
    assert sweep.main(command) == 1


def test_the_code_that_outcomes_are_good_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sweep.py", "contract.py", "eager.py", "fused/__init__.py", "fused/cuda.py", *sweep.ON_CPU):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(sweep, "__file__", str(tmp_path / "sweep.py"))

    def changes(file: str, device: str) -> bool:
        before = sweep.sources("fused", device)
        with (tmp_path / file).open("a") as added:
            added.write("#")
        return sweep.sources("fused", device) != before

    for device, cpu, cuda in (("cpu", True, False), ("cuda", False, True)):
        assert changes("contract.py", device)
        assert changes("sweep.py", device)
        assert changes("fused/__init__.py", device)
        assert not changes("eager.py", device)
        assert changes("fused/cuda.py", device) == cuda
        assert [changes(name, device) for name in sweep.ON_CPU] == [cpu] * 4
