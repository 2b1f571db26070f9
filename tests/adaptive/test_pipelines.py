"""Tables 3 and 4 really train: their stand-ins, and their own pipelines on small folders in the real layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from repro import targets
from repro.adaptive import experiment
from repro.adaptive.settings import with_defaults
from repro.datasets import cifar10
from repro.targets import Context, planned
from repro.training.loop import save
from tests.datasets import made_up

CIFAR = {
    "train_images": "12", "test_images": "8", "batch": "4", "fp32_epochs": "1", "epochs": "1", "bn_images": "8",
    "alpha_images": "8",
}  # fmt: skip
FOLDERS = {
    "classes": "3", "batch": "2", "width": "8", "image_size": "32", "fp32_epochs": "1", "epochs": "1", "bn_images": "4",
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "scale", "changes"),
    [
        ("table3", "smoke", CIFAR),
        ("table4", "smoke", CIFAR | {"frames": "2"}),
        ("table3", "paper", FOLDERS),
        ("table4", "paper", FOLDERS | {"frames": "2"}),
    ],
)
def test_a_start_and_coquant_are_trained(
    table: str, scale: str, changes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "load", made_up.cifar10(12, 8))
    made_up.imagenet(made_up.mini_kinetics(tmp_path))
    target = targets.get(table)
    units = {unit.name: unit for unit in planned(target, scale, 1, changes)}
    for name in ("fp32", "coquant"):
        folder = tmp_path / name
        folder.mkdir()
        inputs = {"fp32": tmp_path / "fp32"}
        outcome = target.run(units[name], Context(folder, data_root=tmp_path, inputs=inputs))
        assert set(outcome.values) == ({"32"} if name == "fp32" else {"8", "6", "4", "2"})
        assert len(outcome.curve) == 1
        assert all(len(hits) in (6, 8) for hits in outcome.correct.values())
        assert (folder / "network.pt").exists()


class Enough(Exception):
    """The training has gone as far as the test wants."""


@pytest.mark.parametrize(
    ("table", "seen"), [("table3", torch.Size([2, 3, 224, 224])), ("table4", torch.Size([16, 3, 224, 224]))]
)
def test_the_published_network_takes_its_first_steps_at_224_pixels(
    table: str, seen: torch.Size, tmp_path: Path
) -> None:
    """The table's own settings but for three classes and batches of two; stopped after two steps."""
    made_up.imagenet(made_up.mini_kinetics(tmp_path), side=240)
    target = targets.get(table)
    (unit,) = (u for u in planned(target, "paper", 1, {"classes": "3", "batch": "2"}) if u.name == "adabits")
    network = experiment.float_network(target.problem, with_defaults(**unit.settings), seed=0)
    assert sum(p.numel() for p in network.parameters()) == 11_178_051  # torchvision's, with 3 classes
    save(network.state_dict(), tmp_path / "network.pt")
    sizes: set[torch.Size] = set()
    hook = nn.modules.module.register_module_forward_pre_hook(lambda module, inputs: _see(sizes, module, inputs))

    def progress(done: int, total: int, note: str) -> None:
        if done == 2:
            raise Enough

    try:
        with pytest.raises(Enough):
            target.run(unit, Context(tmp_path, data_root=tmp_path, inputs={"fp32": tmp_path}, progress=progress))
    finally:
        hook.remove()
    assert sizes == {seen}


def _see(sizes: set[torch.Size], module: nn.Module, inputs: tuple) -> None:
    if isinstance(module, nn.Conv2d) and module.in_channels == 3:
        sizes.add(inputs[0].shape)
