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


def test_all_of_bfloat16() -> None:
    outcome = sweep.sweep(Setting("bfloat16", bits=8, signed=False, step=0.1), "eager")
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


def test_a_second_run_goes_on_and_other_code_starts_anew(
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
    monkeypatch.setattr(sweep, "sources", lambda _: "other")
    assert "2 of 2" in run().err
    monkeypatch.setattr(sweep, "sources", lambda _: "a third")
    monkeypatch.setattr(eager, "forward", lambda x, *_: torch.zeros_like(x))
    assert sweep.main(command) == 1
