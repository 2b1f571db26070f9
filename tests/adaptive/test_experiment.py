"""One unit run on made-up images: which network it starts from, what it changes, and what it leaves."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repro import targets
from repro.adaptive import experiment
from repro.adaptive.joint import BitMixerStep, JointStep
from repro.adaptive.methods import BITS, METHODS
from repro.adaptive.problems import CIFAR10 as DATA
from repro.adaptive.problems import RESNET18, Data, Network, Problem
from repro.adaptive.settings import with_defaults
from repro.adaptive.table import AdaptiveTable
from repro.datasets import cifar10
from repro.networks.mobilenet import MobileNetV2
from repro.networks.quantize import set_bits
from repro.quantizers import PACT, DoReFaWeight
from repro.targets import Context, Outcome, Unit
from repro.training import loop
from repro.training.batches import Batches
from repro.training.loop import load
from tests.backends.cases import no_cuda
from tests.datasets import made_up

SETTINGS = with_defaults(
    width=8, stem_stride=2, train_images=64, test_images=40, batch=16, fp32_epochs=1, epochs=1, alpha_images=32,
    bn_images=32,
)  # fmt: skip
PROBLEM = Problem(RESNET18, DATA)
UNITS = {unit.name: unit for unit in targets.get("table1").units("smoke", 1, SETTINGS)}


@pytest.fixture(autouse=True)
def made_up_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "load", made_up.cifar10())


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FP32 network, trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "load", made_up.cifar10())
        root = tmp_path_factory.mktemp("started")
        run("fp32", root)
    return root


@pytest.fixture
def root(started: Path, tmp_path: Path) -> Path:
    """A folder for units, with the FP32 network in it."""
    return shutil.copytree(started, tmp_path / "root")


def run(name: str, root: Path) -> Outcome:
    """The unit and everything that it requires."""
    unit: Unit = UNITS[name]
    for required in unit.requires:
        if not (root / required / "network.pt").exists():
            run(required, root)
    (root / name).mkdir(parents=True, exist_ok=True)
    return experiment.run(unit, Context(root / name, inputs={r: root / r for r in unit.requires}), PROBLEM)


def test_units_come_after_those_they_require() -> None:
    seen: set[str] = set()
    for unit in UNITS.values():
        assert set(unit.requires) <= seen
        seen.add(unit.name)
    assert UNITS["dq8"].requires == UNITS["dq8_bn_calib"].requires == ("individual_8",)
    assert UNITS["dq32"].requires == UNITS["individual_2"].requires == ("fp32",)


def test_a_unit_depends_on_the_settings_that_can_change_it_and_no_other() -> None:
    settings = {name: set(unit.settings) for name, unit in UNITS.items()}
    assert settings["fp32"] == {
        "width", "stem_stride", "train_images", "test_images", "batch", "momentum", "weight_decay", "fp32_epochs",
        "fp32_lr",
    }  # fmt: skip
    assert settings["dq32"] - settings["fp32"] == {"alpha_percentile", "alpha_images"}
    assert settings["individual_2"] - settings["fp32"] == {
        "epochs", "lr", "weight_lr", "alpha_start", "alpha_lr", "alpha_weight_decay", "realign_in_graph",
        "test_once",
    }  # fmt: skip
    assert settings["dq8"] == settings["individual_8"]
    assert settings["dq8_bn_calib"] - settings["dq8"] == {"bn_images", "bn_augmented"}


def test_trained_unit_reports_its_bit_width_and_leaves_its_network(root: Path) -> None:
    outcome = run("individual_4", root)
    assert outcome.values.keys() == outcome.correct.keys() == {"4"}
    assert outcome.values["4"] == 100 * outcome.correct["4"].mean()
    assert len(outcome.correct["4"]) == 40
    assert len(outcome.curve) == 1
    start, left = (load(root / unit / "network.pt") for unit in ("fp32", "individual_4"))
    assert not torch.equal(start["fc.weight"], left["fc.weight"])
    assert any(left[key] != SETTINGS["alpha_start"] for key in left if key.endswith(".alpha"))


@pytest.mark.parametrize(
    ("name", "kind", "widths"),
    [
        ("individual_2", JointStep, (2,)),
        ("joint", JointStep, BITS),
        ("any_precision", JointStep, BITS),
        ("coquant", JointStep, BITS),
        ("bit_mixer", BitMixerStep, BITS),
    ],
)
def test_a_method_is_trained_by_its_own_step_at_the_rates_of_its_passes(
    name: str, kind: type, widths: tuple[int, ...], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[JointStep | BitMixerStep] = []
    rates: list[float] = []
    optimizer = experiment.quantized_optimizer

    def observed(network: torch.nn.Module, *rest: Any) -> torch.optim.Optimizer:
        made = optimizer(network, *rest)
        rates.extend(group["lr"] for group in made.param_groups)
        return made

    for each in (JointStep, BitMixerStep):
        monkeypatch.setattr(
            experiment, each.__name__, lambda *given, each=each: steps.append(each(*given)) or steps[-1]
        )
    monkeypatch.setattr(experiment, "quantized_optimizer", observed)
    run(name, root)
    (step,) = steps
    assert type(step) is kind
    assert tuple(step.widths) == widths
    assert step.steps == 4
    assert kind is BitMixerStep or step.recipe == METHODS[name.partition("_2")[0]].recipe
    assert rates[:3] == [SETTINGS["lr"] / len(widths), SETTINGS["weight_lr"] / len(widths), SETTINGS["lr"]]


def test_dq32_measures_the_float_weights_at_every_bit_width(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clip levels are percentiles of the float activations, the same at all of them."""
    expected = experiment.quantized(experiment.float_network(PROBLEM, SETTINGS, 0), METHODS["dq32"].recipe, SETTINGS)
    expected.load_state_dict(load(root / "fp32" / "network.pt"), strict=False)
    train = experiment._Data(PROBLEM, SETTINGS, Context(Path())).train
    experiment.set_alpha_at_percentile(expected, train, SETTINGS["alpha_percentile"], SETTINGS["alpha_images"])
    seen: list[int] = []

    def observe(network: torch.nn.Module, batches: Batches) -> np.ndarray:
        (bits,) = {module.bits for module in network.modules() if isinstance(module, PACT | DoReFaWeight)}
        seen.append(bits)
        wanted, found = expected.state_dict(), network.state_dict()
        assert all(torch.equal(value, found[key]) for key, value in wanted.items())
        return np.zeros(len(batches.images), bool)

    monkeypatch.setattr(experiment, "correct", observe)
    outcome = run("dq32", root)
    assert seen == [8, 6, 4, 2]
    assert list(outcome.values) == ["8", "6", "4", "2"]
    assert outcome.curve == []
    assert outcome.images == 160
    assert {module.alpha.item() for module in expected.modules() if isinstance(module, PACT)} != {2.0}


@no_cuda
def test_units_run_on_a_gpu_and_go_on_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrated, trained with swapping, and broken off in the second of two epochs."""
    for name in ("dq32_bn_calib", "coquant"):
        (root / name).mkdir()
    inputs = {"fp32": root / "fp32"}
    measured = experiment.run(UNITS["dq32_bn_calib"], Context(root / "dq32_bn_calib", "cuda", inputs=inputs), PROBLEM)
    assert list(measured.values) == ["8", "6", "4", "2"]
    unit = replace(UNITS["coquant"], settings=UNITS["coquant"].settings | {"epochs": 2})

    def stop(done: int, total: int, note: str) -> None:
        if done == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(unit, Context(root / "coquant", "cuda", inputs=inputs, progress=stop), PROBLEM)
    steps: list[int] = []
    context = Context(root / "coquant", "cuda", inputs=inputs, progress=lambda done, total, note: steps.append(done))
    assert len(experiment.run(unit, context, PROBLEM).curve) == 2
    assert steps == [7, 8]


def test_dq8_at_8_bits_is_the_individual_network(root: Path) -> None:
    individual = run("individual_8", root)
    dq8 = run("dq8", root)
    np.testing.assert_array_equal(dq8.correct["8"], individual.correct["8"])


def test_calibration_changes_batch_norm_and_nothing_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("individual_8", root)
    before = load(root / "individual_8" / "network.pt")
    seen: list[tuple[int, dict]] = []

    def observe(network: torch.nn.Module, batches: Batches) -> np.ndarray:
        bits = next(module.bits for module in network.modules() if isinstance(module, PACT))
        seen.append((bits, {key: value.clone() for key, value in network.state_dict().items()}))
        return np.zeros(len(batches.images), bool)

    monkeypatch.setattr(experiment, "correct", observe)
    run("dq8_bn_calib", root)
    assert [bits for bits, _ in seen] == [8, 6, 4, 2]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for _, state in seen:
        changed = {key for key in before if not torch.equal(before[key], state[key])}
        assert changed
        assert all(key.endswith(statistics) for key in changed)
    first, last = seen[0][1]["blocks.7.bn2.running_mean"], seen[-1][1]["blocks.7.bn2.running_mean"]
    assert not torch.equal(first, last)  # calibrated anew at each bit-width


def test_calibrated_statistics_of_a_quantized_network_are_those_of_what_its_batch_norms_read() -> None:
    """At 2 bits; each the average over batches."""
    settings = with_defaults(width=8, stem_stride=2)
    network = experiment.quantized(experiment.float_network(PROBLEM, settings, 0), METHODS["joint"].recipe, settings)
    set_bits(network, 2)
    read: dict[str, list[torch.Tensor]] = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda m, x, name=name: read.setdefault(name, []).append(x[0].clone()))
    batches = experiment._Data(PROBLEM, SETTINGS, Context(Path())).calibration(seed=0)
    experiment.calibrate_batch_norm(network, batches)
    assert len(read) == 20
    for name, parts in read.items():
        assert len(parts) == 2
        norm = network.get_submodule(name)
        torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in parts]).mean(0))
        torch.testing.assert_close(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in parts]).mean(0))


@pytest.mark.parametrize("augmented", [True, False])
def test_calibration_sees_training_images_as_training_or_as_stored(augmented: bool) -> None:
    data = experiment._Data(PROBLEM, {**SETTINGS, "bn_augmented": augmented}, Context(Path()))
    batches = list(data.calibration(seed=0))
    assert sum(len(labels) for _, labels in batches) == 32
    expected = data.train.training(0, 0) if augmented else data.train.plain()
    for (x, _), (y, _) in zip(batches, expected, strict=False):
        assert torch.equal(x, y)


@pytest.mark.parametrize("percentile", [100.0, 99.0, 70.0])
def test_clip_levels_at_a_percentile_of_the_float_activations(percentile: float) -> None:
    """The first clip level is that of the activations behind the stem, zeros included, averaged over batches."""
    network = experiment.quantized(experiment.float_network(PROBLEM, SETTINGS, 0), METHODS["dq32"].recipe, SETTINGS)
    data = cifar10.load("train", None)
    batches = Batches(data.images[:32], data.labels[:32], 16)
    experiment.set_alpha_at_percentile(network, batches, percentile, 32)
    set_bits(network, None)
    with torch.inference_mode():
        seen = [np.sort(network.act1(network.bn1(network.conv1(x))).numpy(), axis=None) for x, _ in batches.plain()]
    expected = np.mean([values[math.ceil(values.size * percentile / 100) - 1] for values in seen])
    assert network.act1.alpha.item() == pytest.approx(expected)
    assert expected > 0


def test_a_clip_level_of_both_signs_is_a_percentile_of_magnitudes() -> None:
    recipe = METHODS["dq32"].recipe
    network = experiment.quantized(MobileNetV2(0.1, stem_stride=2), recipe, SETTINGS)
    data = cifar10.load("train", None)
    batches = Batches(data.images[:32], data.labels[:32], 16)
    experiment.set_alpha_at_percentile(network, batches, 100.0, 32)
    set_bits(network, None)
    read = network.features[2].input
    largest = []
    read.register_forward_hook(lambda module, inputs, output: largest.append(inputs[0].abs().max()))
    with torch.inference_mode():
        for x, _ in batches.plain():
            network(x)
    torch.testing.assert_close(read.alpha.detach(), torch.stack(largest).mean())


def test_a_start_that_is_another_network_is_refused(root: Path) -> None:
    other = replace(UNITS["dq32"], settings={**UNITS["dq32"].settings, "width": 16})
    (root / "dq32").mkdir()
    with pytest.raises(RuntimeError, match="size mismatch"):
        experiment.run(other, Context(root / "dq32", inputs={"fp32": root / "fp32"}), PROBLEM)


def test_the_same_seed_gives_the_same_record_twice(tmp_path: Path) -> None:
    first, second = (run("individual_2", tmp_path / name) for name in ("a", "b"))
    assert first.curve == second.curve
    np.testing.assert_array_equal(first.correct["2"], second.correct["2"])


@pytest.mark.parametrize("name", ["coquant", "bit_mixer"])
def test_a_training_broken_off_goes_on_as_if_it_had_not_been(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws of teachers, blocks and bit-widths included."""

    class Broken(Exception):
        pass

    def stop(done: int, total: int, note: str) -> None:
        if done == 2:
            raise Broken

    whole = run(name, root)
    again = shutil.copytree(root, tmp_path / "again", ignore=shutil.ignore_patterns(name))
    (again / name).mkdir()
    unit = UNITS[name]
    inputs = {required: again / required for required in unit.requires}
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    with pytest.raises(Broken):
        experiment.run(unit, Context(again / name, inputs=inputs, progress=stop), PROBLEM)
    assert load(again / name / "checkpoint.pt")["step"] == 2  # of four
    found = experiment.run(unit, Context(again / name, inputs=inputs), PROBLEM)
    assert [point["loss"] for point in found.curve] == [point["loss"] for point in whole.curve]
    states = [load(folder / name / "network.pt") for folder in (root, again)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize(("scale", "epoch"), [("smoke", 3), ("cpu", 3), ("gpu", 2), ("paper", 2)])
def test_the_last_epoch_counts_at_reduced_scale_and_the_best_one_above(
    scale: str, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three epochs, of which the second gets most images right."""
    states: list[dict[str, torch.Tensor]] = []

    def counted(network: torch.nn.Module, batches: Batches) -> np.ndarray:
        states.append({key: value.clone() for key, value in network.state_dict().items()})
        return np.arange(40) < (10, 30, 20)[len(states) - 1]

    monkeypatch.setattr(experiment, "correct", counted)
    unit = replace(UNITS["fp32"], scale=scale, settings=UNITS["fp32"].settings | {"fp32_epochs": 3})
    outcome = experiment.run(unit, Context(tmp_path), PROBLEM)
    assert (outcome.values["32"], outcome.best["32"]) == (50.0, 75.0)
    assert outcome.correct["32"].sum() == (30 if epoch == 2 else 20)
    kept = load(tmp_path / "network.pt")
    assert all(torch.equal(value, kept[key]) for key, value in states[epoch - 1].items())


def test_the_optimizer_of_the_start_has_its_settings_and_clip_levels_stay_positive(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict] = []
    sgd = torch.optim.SGD

    def observed(parameters: object, **settings: float) -> torch.optim.Optimizer:
        made.append(settings)
        return sgd(parameters, **settings)

    monkeypatch.setattr(torch.optim, "SGD", observed)
    own = {"fp32_lr": 0.3, "lr": 0.2, "momentum": 0.8, "weight_decay": 0.01}
    unit = replace(UNITS["fp32"], settings=UNITS["fp32"].settings | own)
    experiment.run(unit, Context(tmp_path), PROBLEM)
    assert made == [{"lr": 0.3, "momentum": 0.8, "weight_decay": 0.01}]
    network = experiment.quantized(experiment.float_network(PROBLEM, SETTINGS, 0), METHODS["adabits"].recipe, SETTINGS)
    optimizer = experiment.quantized_optimizer(network, SETTINGS, BITS)
    levels = [module for module in network.modules() if isinstance(module, PACT)]
    for level in levels:
        level.alpha.data.fill_(-1.0)
        level.alpha.grad = torch.zeros(())
    optimizer.step()
    assert [level.alpha.item() for level in levels] == pytest.approx([1e-3] * len(levels))


class Tiny(torch.nn.Sequential):
    """Two convolutions, as a network of somebody else's."""

    full_precision = frozenset({"0"})

    def __init__(self, channels: int, classes: int) -> None:
        conv, relu = torch.nn.Conv2d, torch.nn.ReLU
        pool = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        super().__init__(conv(3, channels, 3), relu(), conv(channels, classes, 3), *pool)


def test_a_table_is_trained_on_the_network_and_the_data_that_it_declares(tmp_path: Path) -> None:
    def opened(settings: dict, context: Context) -> tuple[Batches, Batches]:
        images = np.random.default_rng(0).integers(0, 256, (32, 3, 9, 9), np.uint8)
        return Batches(images, np.arange(32) % 3, 16), Batches(images[:10], np.arange(10) % 3, 10)

    network = Network(("width",), lambda settings, classes: Tiny(settings["width"], classes))
    table = AdaptiveTable(
        "table1", "", Problem(network, Data((), (), 3, opened)), {"smoke": {"fp32_epochs": 1}}, {"smoke": 1}
    )
    settings = table.scales["smoke"]
    assert settings.keys() & {"width", "stem_stride", "train_images", "test_images"} == {"width"}
    start, *_ = table.units("smoke", 1, {**settings, "batch": 16, "epochs": 1, "width": 8})
    assert set(start.settings) == {"width", "batch", "momentum", "weight_decay", "fp32_epochs", "fp32_lr"}
    outcome = table.run(start, Context(tmp_path))
    assert len(outcome.correct["32"]) == 10
    assert load(tmp_path / "network.pt")["2.weight"].shape == (3, 8, 3, 3)
