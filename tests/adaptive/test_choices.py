"""Readings of the paper by name: which units each can change, and what it changes there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from repro import contest, distillation, identification, targets
from repro.adaptive import experiment, joint, table
from repro.adaptive.joint import JointStep
from repro.adaptive.methods import BITS, METHODS
from repro.adaptive.problems import (
    CIFAR10,
    HELD_OUT_CIFAR10,
    IMAGENET,
    MINI_KINETICS,
    MOBILENETV2,
    MOVING_CIFAR,
    RESNET18,
    Data,
    Problem,
)
from repro.adaptive.settings import SETTINGS, UNSAID, Choice, left_out, with_defaults
from repro.datasets import cifar10
from repro.errors import UsageError
from repro.networks.quantize import set_bits
from repro.networks.resnet import ResNet18
from repro.quantizers import PACT, SwitchablePACT
from repro.quantizers.schemes import UnitWeight
from repro.targets import Context, planned
from repro.training.loader import LoadedBatches
from repro.training.loop import SCHEDULES
from tests.datasets import made_up

CHOICES = {name: kind for name, kind in SETTINGS.items() if isinstance(kind, Choice)}
OTHER = {name: kind.options[1] for name, kind in CHOICES.items()}
ALPHA = {"alpha_images": "64"}
SMALL = {"width": 8, "width_multiplier": 0.1, "stem_stride": 2}
PROBLEMS = {"resnet18": Problem(RESNET18, CIFAR10), "mobilenetv2": Problem(MOBILENETV2, CIFAR10)}
IMAGES, LABELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(4)


def network_of(method: str, problem: str = "resnet18", **chosen: str) -> nn.Module:
    settings = with_defaults(**SMALL, **chosen)
    network = experiment.float_network(PROBLEMS[problem], settings, seed=0)
    return experiment.quantized(network, METHODS[method].recipe, settings)


def test_what_records_leave_out_is_what_they_were_made_with() -> None:
    """Records know a reading by its absence: another default needs new numerics, and then this test too."""
    assert UNSAID == {
        "weights": "nested", "ends": "float", "identity": "quantized", "clip": "usual", "entropy": "mean",
        "distance": "mean", "lambda_start": 0.0, "swap_end": 1.0, "alpha_lr_low": None, "alpha_weight_decay_low": None,
        "crop_padding": 4, "crop_area": 0.08, "flip": 0.5, "schedule": "cosine",
    }  # fmt: skip
    assert {module.NUMERICS for module in (table, contest, identification, distillation)} == {1}


def test_pages_fill_in_what_their_own_units_leave_out() -> None:
    views = {"flip", "crop_padding", "crop_area"}
    scales = (("table1", "cpu", {"flip", "crop_padding"}), ("table3", "paper", {"flip", "crop_area"}))
    for name, scale, own in (*scales, ("table4", "paper", {"flip", "crop_area"}), ("table4", "smoke", {"flip"})):
        assert left_out(targets.get(name).scales[scale]).keys() & views == own


def test_a_unit_keeps_the_choices_that_change_it_where_they_are_not_ours() -> None:
    table = targets.get("table1")

    def chosen(**changes: str) -> dict[str, dict]:
        settings = {**table.scales["cpu"], **changes}
        units = table.units("cpu", 1, settings)
        return {unit.name: {k: v for k, v in unit.settings.items() if k in CHOICES} for unit in units}

    assert not any(chosen().values())
    changed = chosen(**OTHER)
    start = {"schedule": "linear"}
    structure = start | {"weights": "nearest", "ends": "8_bit", "identity": "float"}
    clip = {"clip": "shared"}
    assert changed["fp32"] == start
    for name in ("individual_2", "dq32", "dq8_bn_calib", "joint", "adabits", "joint_bn_calib"):
        assert changed[name] == structure
    assert changed["any_precision"] == structure  # whose clip levels are shared anyway
    for name in ("bit_mixer", "bit_mixer_bn_calib", "distilled", "highest_swapped"):
        assert changed[name] == structure | clip
    assert changed["nearest"] == structure | clip | {"distance": "sum"}
    assert changed["coquant"] == structure | clip | {"distance": "sum", "entropy": "sum"}


def test_a_word_that_is_no_option_is_refused() -> None:
    with pytest.raises(UsageError, match="ends=8bit: give one of float, 8_bit"):
        CHOICES["ends"].check("8bit")
    with pytest.raises(UsageError, match="entropy=None"):
        CHOICES["entropy"].check(None)


def test_weights_are_quantized_by_the_scheme() -> None:
    quantizer = network_of("individual", weights="floor").blocks[3].conv1.quantizer
    assert isinstance(quantizer, UnitWeight)
    assert quantizer.rounding == "floor"
    assert network_of("individual", weights="nested_restored").blocks[3].conv1.quantizer.quantizer.bits is None


@pytest.mark.parametrize("problem", PROBLEMS)
def test_ends_are_float_or_stay_at_8_bits(problem: str) -> None:
    plain, chosen = (network_of("coquant", problem, ends=ends) for ends in ("float", "8_bit"))
    assert plain.state_dict().keys() == chosen.state_dict().keys()
    for name in plain.ends:
        assert not hasattr(plain.get_submodule(name), "quantizer")
    used: dict[str, Tensor] = {}
    for name in chosen.ends:
        layer = chosen.get_submodule(name)
        layer.quantizer.register_forward_hook(lambda _, inputs, output, name=name: used.update({name: output}))
    set_bits(chosen, 2)
    chosen(IMAGES).sum().backward()
    for name in chosen.ends:
        layer = chosen.get_submodule(name)
        scale = layer.weight.tanh().abs().max() if isinstance(layer, nn.Linear) else 1.0
        codes = (used[name] / scale + 1) * 127.5
        assert 4 < len(codes.detach().round().unique()) <= 256
        torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
        assert layer.weight.grad.abs().sum() > 0
    groups = experiment.quantized_optimizer(chosen, with_defaults(weight_lr=0.5), (4,)).param_groups
    (quantized,) = (group["params"] for group in groups if group["lr"] == 0.5)
    assert all(any(chosen.get_submodule(name).weight is p for p in quantized) for name in chosen.ends)


def test_full_precision_has_float_ends() -> None:
    float_, chosen = network_of("individual"), network_of("individual", ends="8_bit")
    for network in (float_, chosen):
        set_bits(network.eval(), None)
    assert torch.equal(float_(IMAGES), chosen(IMAGES))


def last_convolution_off(block: nn.Module) -> nn.Module:
    """A block whose identity path alone is left."""
    *_, last = (module for module in block.modules() if isinstance(module, nn.Conv2d))
    nn.init.zeros_(last.weight)
    last.quantizer = nn.Identity()
    return block


@pytest.mark.parametrize(
    ("problem", "name"), [("resnet18", "blocks.1"), ("mobilenetv2", "features.3"), ("mobilenetv2", "features.1")]
)
def test_identity_paths_take_what_is_quantized_or_what_was_before(problem: str, name: str) -> None:
    """Inputs .3 and .9 on the 2-bit grid of a clip level of 2: 0 and 2/3 one-sided, 0 and 2 of both signs."""
    plain, chosen = (network_of("joint", problem, identity=identity).eval() for identity in ("quantized", "float"))
    assert len(plain.state_dict()) == len(chosen.state_dict())
    found = {}
    for network, key in ((plain, "quantized"), (chosen, "float")):
        set_bits(network, 2)
        block = last_convolution_off(network.get_submodule(name))
        channels = next(module for module in block.modules() if isinstance(module, nn.Conv2d)).in_channels
        x = torch.tensor([0.3, 0.9]).view(1, 1, 1, 2).expand(1, channels, 2, 2).contiguous()
        found[key] = block(x)[0, 0, 0].tolist()
    assert found["float"] == pytest.approx([0.3, 0.9])
    expected = {"blocks.1": [0.0, 2 / 3], "features.3": [0.0, 0.0], "features.1": [0.3, 0.9]}  # the last: by the stem
    assert found["quantized"] == pytest.approx(expected[name])
    stem = "act1" if problem == "resnet18" else "features.0.2"
    assert isinstance(plain.get_submodule(stem), PACT)
    assert isinstance(chosen.get_submodule(stem), nn.ReLU)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_float_identities_leave_the_float_network_and_each_layer_its_quantizer(problem: str) -> None:
    settings = [with_defaults(**SMALL, identity=identity) for identity in ("quantized", "float")]
    first, second = (experiment.float_network(PROBLEMS[problem], chosen, seed=0).eval() for chosen in settings)
    assert first.state_dict().keys() == second.state_dict().keys()
    assert torch.equal(first(IMAGES), second(IMAGES))
    chosen = network_of("bit_mixer", problem, identity="float")
    layers = [[module for module in layer if isinstance(module, SwitchablePACT)] for layer in chosen.layers()]
    joint.set_bits_by_layer(chosen, [8, 2] * 40)
    assert [[level.bits for level in levels] for levels in layers] == [[(8, 2)[i % 2]] for i in range(len(layers))]


@pytest.mark.parametrize(
    ("method", "clip", "per_bit"),
    [
        ("coquant", "usual", True),
        ("coquant", "shared", False),
        ("bit_mixer", "shared", False),
        ("any_precision", "usual", False),
        ("any_precision", "per_bit", True),
        ("adabits", "shared", True),
        ("switchable_bn", "per_bit", False),
    ],
)
def test_clip_levels_are_shared_as_chosen_where_the_paper_leaves_it_open(method: str, clip: str, per_bit: bool) -> None:
    network = network_of(method, clip=clip)
    assert any(isinstance(module, SwitchablePACT) for module in network.modules()) == per_bit
    assert any(isinstance(module, PACT) for module in network.modules())


def test_lambda_goes_from_its_start_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    strengths: list[float] = []
    monkeypatch.setattr(joint, "choose", lambda rule, student, logits, d, strength, g: strengths.append(strength) or 8)
    settings, recipe = with_defaults(**SMALL, lambda_start=0.4, lambda_end=0.8), METHODS["selected"].recipe
    network = experiment.quantized(ResNet18(width=8, stem_stride=2), recipe, settings)
    JointStep(network, BITS, recipe, settings, steps=4, seed=0)(IMAGES, LABELS, 1)
    assert strengths == pytest.approx([0.5] * 3)


def test_a_percentile_of_none_leaves_pacts_start() -> None:
    target = targets.get("table1")
    units = planned(target, "smoke", changes={"alpha_percentile": "none"})
    own = {unit.name: unit.settings for unit in units if "alpha_percentile" in unit.settings}
    assert own.keys() == {"dq32", "dq32_bn_calib"}
    assert {settings["alpha_percentile"] for settings in own.values()} == {None}
    with pytest.raises(UsageError, match="alpha_start=None: give a value from"):
        planned(target, "smoke", changes={"alpha_start": "none"})


def test_a_summed_entropy_weighs_as_much_as_the_batch_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[float]] = {}
    for entropy in ("mean", "sum"):
        strengths: list[float] = seen.setdefault(entropy, [])

        def choose(rule: str, student: int, logits: dict, distances: dict, strength: float, *_: object) -> int:
            strengths.append(strength)  # noqa: B023
            return max(logits)

        monkeypatch.setattr(joint, "choose", choose)
        settings = with_defaults(**SMALL, lambda_end=0.8, batch=4, entropy=entropy)
        recipe = METHODS["coquant"].recipe
        network = experiment.quantized(ResNet18(width=8, stem_stride=2), recipe, settings)
        JointStep(network, BITS, recipe, settings, steps=2, seed=0)(IMAGES, LABELS, 1)
    assert seen == {"mean": [0.4] * 3, "sum": [0.1] * 3}


@pytest.mark.parametrize("data", [CIFAR10, HELD_OUT_CIFAR10])
def test_images_are_cropped_and_mirrored_as_chosen(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "load", made_up.cifar10(train=6000))
    for chosen in ({"crop_padding": 2, "flip": 0.1}, {"crop_padding": 0, "flip": 0.0}):
        settings = with_defaults(batch=16, **chosen)
        train, _ = data.open(settings, Context(Path()))
        assert (train.padding, train.flip) == (settings["crop_padding"], settings["flip"])


@pytest.mark.parametrize(("data", "fill"), [(IMAGENET, made_up.imagenet), (MINI_KINETICS, made_up.mini_kinetics)])
def test_photographs_and_frames_are_cut_and_mirrored_as_chosen(
    data: Data, fill: Callable[[Path], Path], tmp_path: Path
) -> None:
    settings = with_defaults(classes=3, batch=2, image_size=32, crop_area=1.0, flip=0.0, frames=2)
    train, _ = data.open(settings, Context(tmp_path, data_root=fill(tmp_path)))
    assert isinstance(train, LoadedBatches)
    crop, mirror = train.items._training_view.transforms
    assert (tuple(crop.scale), mirror.p) == ((1.0, 1.0), 0.0)


def test_moving_cifar_is_mirrored_as_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "load", made_up.cifar10())
    never, always = (
        MOVING_CIFAR.open(with_defaults(batch=2, flip=flip), Context(Path()))[0].items for flip in (0.0, 1.0)
    )
    for index in range(4):
        with torch.random.fork_rng():
            shown = []
            for items in (never, always):
                torch.manual_seed(index)
                shown.append(items.training(index)[0])
        assert torch.equal(shown[0].flip(-1), shown[1])


@pytest.mark.parametrize("schedule", CHOICES["schedule"].options)
def test_rates_take_the_course_chosen(schedule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "load", made_up.cifar10())
    seen: list[float] = []
    zero_grad = torch.optim.SGD.zero_grad

    def watched(optimizer: torch.optim.SGD, **how: bool) -> None:
        seen.append(optimizer.param_groups[0]["lr"])
        zero_grad(optimizer, **how)

    monkeypatch.setattr(torch.optim.SGD, "zero_grad", watched)
    tiny = {"train_images": "64", "test_images": "20", "batch": "16", "fp32_epochs": "1", "fp32_lr": ".5"}
    start, *_ = planned(targets.get("table1"), "smoke", 1, {**tiny, "schedule": schedule, "bn_images": "64"} | ALPHA)
    targets.get("table1").run(start, Context(tmp_path))
    assert seen == pytest.approx([0.5 * SCHEDULES[schedule](step, 4) for step in range(4)])


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_a_unit_runs_with_every_choice_made_otherwise(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "load", made_up.cifar10())
    target = targets.get(table)
    tiny = {"train_images": 32, "test_images": 20, "batch": 16, "fp32_epochs": 1, "epochs": 1}
    settings = {**target.scales["smoke"], **SMALL, **tiny, "bn_images": 32, "alpha_images": 32, **OTHER}
    settings = {name: value for name, value in settings.items() if name in target.scales["smoke"]}
    units = {unit.name: unit for unit in target.units("smoke", 1, settings)}
    for name in ("fp32", "coquant"):
        (tmp_path / name).mkdir()
        inputs = {required: tmp_path / required for required in units[name].requires}
        outcome = target.run(units[name], Context(tmp_path / name, inputs=inputs))
    assert set(outcome.values) == {str(bits) for bits in BITS}
