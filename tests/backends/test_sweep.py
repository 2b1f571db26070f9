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

SETTINGS = sweep.settings(sweep.BIT_WIDTHS)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_levels_are_the_reference(setting: Setting) -> None:
    """All of bfloat16; of float32 ties, their neighbours, and anything."""
    dtype, width = getattr(torch, setting.dtype), sweep.PLACES[setting.dtype]
    if dtype == torch.bfloat16:
        bits = torch.arange(-(2**15), 2**15).to(width)
    else:
        levels = grid(setting.bits, setting.signed, setting.step)
        anything = np.random.default_rng(0).integers(2**32, size=999, dtype=np.uint32).view(np.float32)
        bits = torch.from_numpy(np.concatenate([tie_grid(levels), specials(levels), anything])).view(width)
    x, places = bits.view(dtype), torch.where(bits < 0, bits ^ torch.iinfo(width).max, bits)
    assert torch.equal(sweep.numbers(places).view(width), bits)

    firsts, codes, values = zip(*sweep.levels(setting), strict=True)
    level = torch.searchsorted(torch.tensor(firsts), places.long(), right=True).numpy() - 1
    assert_equal(np.int32(codes)[level], reference.codes(x.float().numpy(), *setting.parameters))
    expected = torch.from_numpy(reference.forward(x.float().numpy(), *setting.parameters)).to(dtype)
    assert_equal(np.float32(values)[level], expected.float().numpy())


def test_settings_are_distinct_and_valid() -> None:
    every = sweep.settings(sweep.BIT_WIDTHS)
    assert len(set(every)) == len(every) == 2 * 2 * 7 * (len(sweep.ORDINARY) + len(sweep.HARD) + 1)


BFLOAT16 = [setting for setting in SETTINGS if setting.dtype == "bfloat16"]


@pytest.mark.parametrize("setting", BFLOAT16[::5], ids=str)
def test_all_of_bfloat16(setting: Setting) -> None:
    """Every fifth setting, which takes each width, signed and unsigned, and each step in turn."""
    outcome = sweep.sweep(setting, "fused")
    assert (outcome.inputs, outcome.codes, outcome.values) == (2**16, 0, 0)


def test_differences_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a backend that rounds ties up, has no code for NaN, and but one value; a thousand numbers at a time."""
    monkeypatch.setitem(sweep.CHUNK, "cpu", 1000)
    setting = Setting("bfloat16", bits=2, signed=True, step=0.5)

    def codes(x: torch.Tensor, *_: float) -> torch.Tensor:
        return torch.floor(x.float().clamp(-1.0, 0.5) / 0.5 + 0.5).nan_to_num(0).int()

    monkeypatch.setattr(eager, "codes", codes)
    monkeypatch.setattr(eager, "forward", lambda x, *_: torch.zeros_like(x))
    outcome = sweep.sweep(setting, "eager")
    x = sweep.numbers(torch.arange(-(2**15), 2**15).short())
    assert outcome.inputs == len(x.view(torch.int16).unique()) == 2**16
    assert outcome.codes == 2 * 127 + 2  # NaN, and .25 and -.75, which go to the even 0 and -2
    assert outcome.values == int((~(x.abs() <= 0.25)).sum())


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
    for name, other in (("sources", lambda *_: "other"), ("machine", lambda *_: {"cpu": "other"})):
        with monkeypatch.context() as patch:
            patch.setattr(sweep, name, other)
            assert sweep.main(command) == 2
        assert capsys.readouterr().err.endswith("give another file by --out, or delete this one to start anew\n")
        assert out.read_bytes() == kept
    out.unlink()
    monkeypatch.setattr(eager, "forward", lambda x, *_: torch.zeros_like(x))
    assert sweep.main(command) == 1


def test_the_code_that_outcomes_are_good_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "sweep.py",
        "contract.py",
        "reference.py",
        "eager.py",
        "fused/__init__.py",
        "fused/cuda.py",
        *sweep.ON_CPU,
    ):
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
        assert changes("reference.py", device)
        assert changes("fused/__init__.py", device)
        assert not changes("eager.py", device)
        assert changes("fused/cuda.py", device) == cuda
        assert [changes(name, device) for name in sweep.ON_CPU] == [cpu] * 4
