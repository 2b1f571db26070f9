"""The scales `gpu` and `paper`: the published networks take their first real steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repro import targets
from repro.adaptive import experiment
from repro.adaptive.settings import with_defaults
from repro.datasets import cifar10
from repro.datasets.cifar10 import CIFAR10
from repro.targets import Context, planned
from repro.training.loop import save

PUBLISHED = {"table1": 11_173_962, "table2": 2_236_682}
"""Parameters of the networks with ten classes."""
STEPS = 2


class Enough(Exception):
    """The training has gone as far as the test wants."""


@pytest.fixture(autouse=True)
def all_of_a_made_up_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_split(split: str, data_root: Path | None) -> CIFAR10:
        rng, n = np.random.default_rng(0), {"train": 50_000, "test": 10_000}[split]
        image = rng.integers(0, 256, (1, 3, 32, 32), np.uint8)
        return CIFAR10(np.broadcast_to(image, (n, 3, 32, 32)), np.arange(n) % 10)

    monkeypatch.setattr(cifar10, "load", load_split)


@pytest.mark.parametrize("table", PUBLISHED)
@pytest.mark.parametrize(
    ("scale", "name"), [("gpu", "fp32"), ("gpu", "bit_mixer"), ("paper", "coquant"), ("paper", "individual_2")]
)
def test_the_published_network_on_all_images_takes_its_first_steps(
    table: str, scale: str, name: str, tmp_path: Path
) -> None:
    """Its own settings but for a small batch; stopped after two steps."""
    target = targets.get(table)
    unit = next(unit for unit in planned(target, scale, 1, {"batch": "4"}) if unit.name == name)
    network = experiment.float_network(target.problem, with_defaults(**unit.settings), seed=0)
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[table]
    save(network.state_dict(), tmp_path / "network.pt")
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, note: str) -> None:
        seen.append((done, total))
        if done == STEPS:
            raise Enough

    with pytest.raises(Enough):
        target.run(unit, Context(tmp_path, inputs={"fp32": tmp_path}, progress=progress))
    epochs = unit.settings["fp32_epochs" if name == "fp32" else "epochs"]
    assert seen == [(done, epochs * 50_000 // 4) for done in range(1, STEPS + 1)]


@pytest.mark.parametrize("table", PUBLISHED)
def test_paper_scale_is_the_published_network_at_its_defaults(table: str) -> None:
    target = targets.get(table)
    assert target.changes["paper"] == {}
    gpu, paper = target.scales["gpu"], target.scales["paper"]
    assert {key for key in paper if gpu[key] != paper[key]} == {"fp32_epochs", "epochs"}
