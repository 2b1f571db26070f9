"""One joint step: its gradients are the sums of those of separate steps, and each method touches its own parts."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repro.adaptive import joint
from repro.adaptive.experiment import quantized, quantized_optimizer
from repro.adaptive.joint import BitMixerStep, JointStep, set_bits_by_layer
from repro.adaptive.methods import BITS, METHODS, Recipe
from repro.adaptive.settings import with_defaults
from repro.adaptive.swapping import draw
from repro.adaptive.teachers import choose, entropy, weight_distances
from repro.networks.mobilenet import MobileNetV2
from repro.networks.quantize import set_bits
from repro.networks.resnet import ResNet18
from repro.networks.switchable import TransitionalBatchNorm2d
from repro.quantizers import PACT
from repro.training.distillation import soft_cross_entropy
from repro.training.loop import load, save

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(6)
SETTINGS = with_defaults()


ALIKE = {
    replace(method.recipe, teacher="highest" if method.recipe.teacher else None, swapped=False): method.name
    for method in reversed(METHODS.values())
}
"""A method of each kind: those that differ in who teaches or in swapping alone have the same network and state."""


NETWORKS = {"resnet18": partial(ResNet18, width=2, stem_stride=2), "mobilenetv2": partial(MobileNetV2, 0.1, 2)}


def network_of(name: str, network: str = "resnet18") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return quantized(NETWORKS[network](), METHODS[name].recipe, SETTINGS).train()


def step_of(network: nn.Module, recipe: Recipe, steps: int = 10) -> JointStep:
    return JointStep(network, BITS, recipe, SETTINGS, steps, seed=0)


def accumulated(network: nn.Module, passes: Iterable[int]) -> float:
    """Cross-entropy of passes at these bit-widths, summed, as are their gradients."""
    total = 0.0
    for bits in passes:
        set_bits(network, bits)
        loss = F.cross_entropy(network(IMAGES), LABELS)
        loss.backward()
        total += loss.item()
    return total


def gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["joint", "switchable_bn", "adabits"])
def test_gradients_are_the_sum_over_bit_widths(name: str) -> None:
    network = network_of(name)
    loss = step_of(network, METHODS[name].recipe)(IMAGES, LABELS, 0)
    found = gradients(network)
    twin = network_of(name)
    assert loss == pytest.approx(accumulated(twin, BITS))
    assert found.keys() == gradients(twin).keys()
    for key, expected in gradients(twin).items():
        torch.testing.assert_close(found[key], expected)


@pytest.mark.parametrize(
    ("name", "norms", "alphas"),
    [("joint", 20, 16), ("switchable_bn", 80, 16), ("adabits", 80, 64), ("any_precision", 80, 16),
     ("bit_mixer", 320, 64), ("coquant", 80, 64)],
)  # fmt: skip
def test_each_method_has_the_norms_and_clip_levels_of_its_row(name: str, norms: int, alphas: int) -> None:
    network = network_of(name)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == norms
    assert sum(key.endswith(".alpha") for key, _ in network.named_parameters()) == alphas


def test_any_precision_learns_below_the_top_from_the_next_higher_output_alone() -> None:
    network, recipe = network_of("any_precision"), METHODS["any_precision"].recipe
    loss = step_of(network, recipe)(IMAGES, LABELS, 0)
    twin, outputs = network_of("any_precision"), {}
    for bits in BITS:
        set_bits(twin, bits)
        outputs[bits] = twin(IMAGES).detach()
    expected = F.cross_entropy(outputs[8], LABELS)
    for student, teacher in ((6, 8), (4, 6), (2, 4)):
        expected = expected + soft_cross_entropy(outputs[student], outputs[teacher])
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_coquant_learns_from_labels_and_from_the_selected_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[int, tuple[int, ...]]] = []

    def choose(rule: str, student: int, logits: dict, *_: object) -> int:
        chosen.append((student, tuple(logits)))
        return 8

    monkeypatch.setattr(joint, "choose", choose)
    recipe = replace(METHODS["coquant"].recipe, swapped=False)
    loss = step_of(network_of("coquant"), recipe)(IMAGES, LABELS, 0)
    assert chosen == [(6, (8,)), (4, (8, 6)), (2, (8, 6, 4))]
    twin, expected, top = network_of("coquant"), 0.0, None
    for bits in BITS:
        set_bits(twin, bits)
        output = twin(IMAGES).detach()
        expected += F.cross_entropy(output, LABELS).item()
        expected += 0.0 if top is None else soft_cross_entropy(output, top).item()
        top = output if top is None else top
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("changed", [{"temperature": 4.0}, {"soft_weight": 0.5}, {"matched_loss": True}])
def test_the_loss_is_that_of_the_settings(changed: dict[str, float]) -> None:
    """Without swapping and with the highest as teacher, summed by hand."""
    settings = SETTINGS | changed
    weight, temperature = settings["soft_weight"], settings["temperature"]
    loss = JointStep(network_of("distilled"), BITS, METHODS["distilled"].recipe, settings, 10, seed=0)(
        IMAGES, LABELS, 0
    )
    twin, outputs = network_of("distilled"), {}
    for bits in BITS:
        set_bits(twin, bits)
        outputs[bits] = twin(IMAGES).detach()
    teacher = (outputs[8] / temperature).softmax(1)
    expected = F.cross_entropy(outputs[8], LABELS)
    for bits in (6, 4, 2):
        soft = -(teacher * (outputs[bits] / temperature).log_softmax(1)).sum(1).mean() * temperature**2
        both = F.cross_entropy(outputs[bits], LABELS) + weight * soft
        expected = expected + (both / (1 + weight) if settings["matched_loss"] else both)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("changed", [{"swap_start": 0.5}, {"swap_by_depth": False}])
def test_blocks_are_swapped_by_the_probabilities_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, float]
) -> None:
    settings, drawn = SETTINGS | changed, []
    monkeypatch.setattr(joint, "draw", lambda p, g: drawn.append(list(p)) or [False] * len(p))
    JointStep(network_of("coquant"), BITS, METHODS["coquant"].recipe, settings, 4, seed=0)(IMAGES, LABELS, 1)
    start = settings["swap_start"]
    p = start + (1 - start) / 4
    depth = [(8 - block) / 8 if settings["swap_by_depth"] else 1 for block in range(8)]
    assert drawn == [pytest.approx([1 - (1 - p) * d for d in depth])] * 3


def test_draws_are_keyed_by_seed_step_and_bit_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by nothing else: a step that is repeated, as after a kill, swaps the same blocks."""
    swaps: list[tuple[bool, ...]] = []
    monkeypatch.setattr(joint, "draw", lambda p, g: swaps.append(tuple(draw(p, g))) or [False] * len(p))
    network, recipe, settings = network_of("coquant"), METHODS["coquant"].recipe, SETTINGS | {"swap_start": 0.5}
    for seed, number in ((0, 0), (0, 1), (1, 0), (0, 0)):
        JointStep(network, BITS, recipe, settings, 100, seed)(IMAGES, LABELS, number)
    first, other_step, other_seed, again = (swaps[i : i + 3] for i in range(0, 12, 3))
    assert len({tuple(first), tuple(other_step), tuple(other_seed)}) == 3
    assert len(set(first)) > 1
    assert first == again


def test_lambda_rises_linearly_and_swapping_ends_with_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    strengths, probabilities = [], []
    monkeypatch.setattr(joint, "choose", lambda rule, student, logits, d, strength, g: strengths.append(strength) or 8)
    monkeypatch.setattr(joint, "draw", lambda p, g: probabilities.append(p[0]) or [False] * len(p))
    network = network_of("coquant")
    step = step_of(network, METHODS["coquant"].recipe, steps=4)
    for number in (0, 2):
        step(IMAGES, LABELS, number)
    assert strengths == pytest.approx([0.0] * 3 + [0.01] * 3)
    assert probabilities == pytest.approx([0.1] * 3 + [0.55] * 3)


def test_the_selected_teacher_is_that_of_the_steps_own_logits_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """argmin of H + lambda d, computed beside the step, early and late; late the nearest, which is never the 8-bit."""
    settings, recipe = SETTINGS | {"lambda_end": 1e3}, replace(METHODS["coquant"].recipe, swapped=False)
    chosen: list[int] = []
    monkeypatch.setattr(joint, "choose", lambda *given: chosen.append(choose(*given)) or chosen[-1])
    step = JointStep(network_of("coquant"), BITS, recipe, settings, steps=2, seed=0)
    for number in (0, 1):
        step(IMAGES, LABELS, number)
    twin = network_of("coquant")
    distances, outputs = weight_distances(twin, BITS), {}
    for bits in BITS:
        set_bits(twin, bits)
        outputs[bits] = twin(IMAGES).detach()
    expected = []
    for strength in (0.0, 500.0):
        for student in (6, 4, 2):
            costs = {
                bits: float(entropy(outputs[bits])) + strength * distances[bits, student]
                for bits in BITS
                if bits > student
            }
            expected.append(min(costs, key=costs.__getitem__))
    assert chosen == expected
    assert chosen[3:] == [8, 6, 4]
    assert chosen[:3] != chosen[3:]


@pytest.mark.parametrize("trains_teacher", [False, True])
def test_a_swapped_block_learns_from_the_students_loss_as_configured(
    monkeypatch: pytest.MonkeyPatch, trains_teacher: bool
) -> None:
    """Of the teacher's parts only the lent block's batch norm can learn from more than its own pass."""
    monkeypatch.setattr(joint, "choose", lambda *_: 8)
    recipe, found = METHODS["coquant"].recipe, []
    for lent in (False, True):
        monkeypatch.setattr(joint, "draw", lambda p, g, lent=lent: [lent and block == 3 for block in range(len(p))])
        network = network_of("coquant")
        settings = SETTINGS | {"swap_trains_teacher": trains_teacher}
        JointStep(network, (8, 2), recipe, settings, 10, seed=0)(IMAGES, LABELS, 0)
        found.append(gradients(network)["blocks.3.bn2.norms.8.weight"])
    assert torch.equal(*found) == (not trains_teacher)


@pytest.mark.parametrize("swap", [True, False])
def test_a_swapped_block_runs_as_the_teachers_and_all_else_as_the_students(
    monkeypatch: pytest.MonkeyPatch, swap: bool
) -> None:
    monkeypatch.setattr(joint, "choose", lambda *_: 8)
    monkeypatch.setattr(joint, "draw", lambda p, g: [block == 3 for block in range(len(p))])
    network, ran = network_of("coquant"), []
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and ".norms." in name:
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    recipe = replace(METHODS["coquant"].recipe, swapped=swap)
    JointStep(network, (8, 2), recipe, SETTINGS, 10, seed=0)(IMAGES, LABELS, 0)
    first, second = ran[: len(ran) // 2], ran[len(ran) // 2 :]
    (lent,) = (name for name, module in network.named_modules() if module is network.blocks[3])
    assert {name.rpartition(".")[2] for name in first} == {"8"}
    assert [name.replace(".norms.2", ".norms.8") for name in second] == first
    assert {name.startswith(f"{lent}.") for name in second if name.endswith(".8")} == ({True} if swap else set())
    assert any(name.startswith(f"{lent}.") for name in second if name.endswith(".2")) == (not swap)


def test_a_step_can_be_repeated_bit_for_bit() -> None:
    results = []
    for _ in range(2):
        network = network_of("coquant")
        results.append((step_of(network, METHODS["coquant"].recipe)(IMAGES, LABELS, 3), gradients(network)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][key]) for key, value in results[0][1].items())


def test_bit_mixer_draws_one_bit_width_for_all_then_one_per_layer() -> None:
    network = network_of("bit_mixer")
    seen: list[set[tuple[int, int]]] = []
    norms = [m for m in network.modules() if isinstance(m, TransitionalBatchNorm2d)]
    network.register_forward_pre_hook(lambda *_: seen.append({(m.previous, m.bits) for m in norms}))
    step = BitMixerStep(network, BITS, SETTINGS | {"mixer_uniform": 0.8}, steps=10, seed=0)
    for number in (0, 1, 7):
        step(IMAGES, LABELS, number)
    assert len(seen) == 12
    assert all(len(pairs) == 1 and all(a == b for a, b in pairs) for pairs in seen)
    assert {pair for pairs in seen for pair in pairs} == {(bits, bits) for bits in BITS}
    step(IMAGES, LABELS, 8)
    assert all(len(pairs) > 1 for pairs in seen[12:])


def test_bit_mixer_sums_the_losses_and_gradients_of_its_passes() -> None:
    network, twin = network_of("bit_mixer"), network_of("bit_mixer")
    seen: list[int] = []
    network.register_forward_pre_hook(lambda *_: seen.append(network.bn1.bits))
    loss = BitMixerStep(network, BITS, SETTINGS, steps=10, seed=0)(IMAGES, LABELS, 0)
    assert loss == pytest.approx(accumulated(twin, seen))
    for key, expected in gradients(twin).items():
        torch.testing.assert_close(gradients(network)[key], expected)


def test_bits_by_layer_reach_each_layer_and_tell_its_norm_what_came_before() -> None:
    network = network_of("bit_mixer")
    bits = [8, 6, 4, 2] * 4
    set_bits_by_layer(network, bits)
    first, second = network.blocks[0], network.blocks[1]
    assert (first.conv1.quantizer.bits, first.conv2.quantizer.bits, second.conv1.quantizer.bits) == (8, 6, 4)
    assert (network.act1.bits, first.act1.bits, first.act2.bits) == (8, 6, 4)
    assert (network.bn1.previous, network.bn1.bits) == (8, 8)
    assert (first.bn2.previous, first.bn2.bits) == (8, 6)
    assert (second.bn1.previous, second.bn1.bits) == (6, 4)


def used(network: nn.Module) -> set[str]:
    """Batch norms and clip levels that a forward pass ran through."""
    names: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: names.add(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d | PACT)
    ]
    network(IMAGES)
    for hook in hooks:
        hook.remove()
    return names


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("method", ["joint", "switchable_bn", "adabits", "any_precision", "bit_mixer", "coquant"])
def test_which_norms_and_clip_levels_a_pass_uses_and_teaches(method: str, bits: int) -> None:
    norm = {"joint": "", "bit_mixer": f".norms.{bits}_{bits}"}.get(method, f".norms.{bits}")
    level = f".levels.{bits}" if method in ("adabits", "bit_mixer", "coquant") else ""
    network = network_of(method).train()
    set_bits(network, bits)
    kinds = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d | PACT)}
    ran = used(network)
    norms = {name for name in ran if isinstance(kinds[name], nn.BatchNorm2d)}
    levels = ran - norms
    assert len(norms) == 20
    assert all(name.endswith(norm) for name in norms)
    assert len(levels) == 16
    assert all(name.endswith(level) for name in levels)
    JointStep(network, (bits,), METHODS[method].recipe, SETTINGS, steps=1, seed=0)(IMAGES, LABELS, 0)
    learned = {
        name for name, module in kinds.items() if any(p.grad is not None and p.grad.any() for p in module.parameters())
    }
    assert learned <= norms | levels
    assert norms <= learned


def test_between_layers_of_two_bit_widths_the_norm_of_the_pair_is_used() -> None:
    network = network_of("bit_mixer").train()
    set_bits_by_layer(network, [8, 6, 4, 2] * 4)
    names = used(network)
    assert {"bn1.norms.8_8", "blocks.0.bn1.norms.8_8", "blocks.0.bn2.norms.8_6", "blocks.1.bn1.norms.6_4"} <= names
    assert {"act1.levels.8", "blocks.0.act1.levels.6", "blocks.0.act2.levels.4"} <= names


def test_learning_rates_of_a_joint_method() -> None:
    groups = quantized_optimizer(network_of("coquant"), SETTINGS, BITS).param_groups
    alpha = (SETTINGS["alpha_lr"], SETTINGS["alpha_weight_decay"])
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (SETTINGS["lr"] / 4, SETTINGS["weight_decay"]),
        (SETTINGS["weight_lr"] / 4, SETTINGS["weight_decay"]),
        (SETTINGS["lr"], SETTINGS["weight_decay"]),
        alpha,
        alpha,
    ]
    assert [len(group["params"]) for group in groups] == [1 + 2, 19, 160, 48, 16]


@pytest.mark.parametrize(
    ("name", "widths", "low"),
    [("adabits", BITS, 16), ("individual", (2,), 16), ("individual", (4,), 0), ("switchable_bn", BITS, 0)],
)
def test_clip_levels_of_two_bits_alone_may_learn_otherwise(name: str, widths: tuple[int, ...], low: int) -> None:
    network = network_of(name)
    settings = {**SETTINGS, "alpha_lr_low": 0.01, "alpha_weight_decay_low": 0.06}
    *_, others, lowest = quantized_optimizer(network, settings, widths).param_groups
    assert (lowest["lr"], lowest["weight_decay"]) == (0.01, 0.06)
    assert (others["lr"], others["weight_decay"]) == (SETTINGS["alpha_lr"], SETTINGS["alpha_weight_decay"])
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert len(lowest["params"]) == low
    if low and len(widths) > 1:
        assert all(names[parameter].endswith("levels.2.alpha") for parameter in lowest["params"])


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("resnet18", name) for name in ALIKE.values()), ("mobilenetv2", "coquant"), ("mobilenetv2", "bit_mixer")],
)
def test_state_is_saved_and_loaded_whole_and_bits_switch_in_place(kind: str, name: str, tmp_path: Path) -> None:
    """Outputs at each bit-width are equal before and after a save, and in whatever order they are asked for."""
    network, recipe = network_of(name, kind), METHODS[name].recipe
    optimizer = quantized_optimizer(network, SETTINGS, BITS)
    if recipe.random_bits:
        BitMixerStep(network, BITS, SETTINGS, 10, seed=0)(IMAGES, LABELS, 9)
    else:
        step_of(network, replace(recipe, swapped=False))(IMAGES, LABELS, 0)
    optimizer.step()
    save(network.state_dict(), tmp_path / "network.pt")
    other = network_of(name, kind)
    other.load_state_dict(load(tmp_path / "network.pt"))
    before, after = (
        {bits: _at(one.eval(), bits) for bits in order} for one, order in ((network, BITS), (other, BITS[::-1]))
    )
    for bits in BITS:
        assert torch.equal(before[bits], after[bits])
        assert torch.equal(before[bits], _at(network, bits))
    assert not torch.equal(before[8], before[2])


@torch.inference_mode()
def _at(network: nn.Module, bits: int) -> torch.Tensor:
    set_bits(network, bits)
    return network(IMAGES)


def test_switching_costs_less_than_a_small_forward_pass() -> None:
    network = network_of("coquant").eval()

    def seconds(action) -> float:
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            action()
            best = min(best, time.perf_counter() - start)
        return best

    with torch.inference_mode():
        assert seconds(lambda: set_bits(network, 4)) < seconds(lambda: network(IMAGES))
