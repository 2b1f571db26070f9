"""The published recipe, as far as a folder of a few images in ImageNet's layout can show it; and two processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backends import Scaler
from repro import datasets
from repro.datasets import files
from repro.figure4 import TARGET
from repro.figure4.experiment import Noise
from repro.targets import Context, Outcome, Unit, planned
from repro.training import distributed
from tests.datasets import made_up
from tests.training import two

FEW = {"classes": "3", "warmup": "1"} | {
    f"{network}_{name}": value
    for network in ("lite0", "small")
    for name, value in {
        "size": "32", "batch": "8", "fp32_images": "24", "fp32_epochs": "2", "train_images": "24", "epochs": "2",
        "test_images": "15", "bn_images": "8",
    }.items()
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_thread")
NOISE = "small_3bit_gaussian_noise_gaussian_noise"


def unit(name: str, **changes: str) -> Unit:
    units = planned(TARGET, "paper", 1, FEW | changes)
    return next(unit for unit in units if unit.name == name)


def run(unit: Unit, root: Path, folder: Path) -> Outcome:
    (folder / unit.name).mkdir(parents=True, exist_ok=True)
    inputs = {name: folder / name for name in unit.requires}
    return TARGET.run(unit, Context(folder / unit.name, root, inputs=inputs))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.imagenet(tmp_path_factory.mktemp("data"), classes=3, train=8, val=5)


def test_it_is_the_published_one() -> None:
    """Recipe, network and widths as the authors' released set-up has them."""
    units = planned(TARGET, "paper")
    assert {u.seed for u in units} == set(range(20))
    assert sorted({int(str(u.settings["bits"])) for u in units if "bits" in u.settings}) == [2, 3, 4]
    for u in units:
        assert u.settings["data"] == "imagenet"
        assert (u.settings["size"], u.settings["batch"], u.settings["classes"]) == (224, 1024, 1000)
        assert (u.settings["optimizer"], u.settings["momentum"], u.settings["warmup"]) == ("rmsprop", 0.9, 2)
        assert (u.settings["weight_decay"], u.settings["label_smoothing"]) == (1e-5, 0.1)
        if "bits" in u.settings:
            assert (u.settings["epochs"], u.settings["lr"], u.settings["evaluate"]) == (50, 5e-3, "best")


def test_two_processes_hold_the_same_network(root: Path, tmp_path: Path) -> None:
    first, second = two.run(_together, tmp_path / "rendezvous", root, tmp_path)
    for name in ("small_fp32", NOISE):
        assert first[name].values == second[name].values
        np.testing.assert_array_equal(first[name].correct["top1"], second[name].correct["top1"])
        assert len(first[name].correct["top1"]) == 15
    values = first[NOISE].values
    assert values["top1"] == max(point["top1"] for point in first[NOISE].curve)
    for name, same in (("head.weight", True), ("head.input", False)):
        assert torch.equal(first["drawn"][name], second["drawn"][name]) is same


def _together(number: int, root: Path, folder: Path) -> dict:
    found: dict = {}
    for name in ("small_fp32", NOISE):
        found[name] = run(unit(name, networks="small"), root, folder)
        distributed.barrier()
    found["drawn"] = {
        name: Noise(0)(name, Scaler("gaussian_noise"), torch.zeros(8)) for name in ("head.weight", "head.input")
    }
    return found


def test_lite0_takes_its_first_steps(root: Path, tmp_path: Path) -> None:
    """From its ImageNet weights, fetched where they are missing."""
    datasets.fetch("efficientnet_lite0")
    (tmp_path / "weights").symlink_to(files.root() / "weights")
    (tmp_path / "imagenet").symlink_to(root / "imagenet")
    for name in ("lite0_fp32", "lite0_3bit_ewgs_invtanh"):
        found = run(unit(name), tmp_path, tmp_path / "units")
        assert [np.isfinite(point["loss"]) for point in found.curve] == [True, True]
        assert found.images == 48
