"""A float network becomes a quantized one: which layers, and that nothing else changes."""

import pytest
import torch
from torch import nn

from repro.networks.quantize import LayerRule, QuantizedConv2d, quantize, set_bits
from repro.networks.resnet import ResNet18
from repro.quantizers import PACT, DoReFaWeight

KEEP = frozenset({"conv1", "fc", "blocks.7.act2"})


def quantized() -> tuple[nn.Module, nn.Module]:
    network = ResNet18(width=4, stem_stride=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network._initialise()
    twin = ResNet18(width=4, stem_stride=2)
    twin.load_state_dict(network.state_dict())
    return network, quantize(twin, LayerRule(DoReFaWeight, PACT, KEEP))


def test_published_network_has_the_published_size() -> None:
    """ResNet18 with the CIFAR stem: 11,173,962 parameters, 20 convolutions, 8 blocks."""
    network = ResNet18()
    assert sum(p.numel() for p in network.parameters()) == 11_173_962
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == 20
    assert len(network.blocks) == 8


def test_every_conv_but_the_stem_and_every_relu_but_the_last_is_replaced() -> None:
    _, network = quantized()
    convs = {n: type(m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert [n for n, kind in convs.items() if kind is nn.Conv2d] == ["conv1"]
    assert sum(kind is QuantizedConv2d for kind in convs.values()) == 19  # three shortcut convolutions among them
    assert [n for n, m in network.named_modules() if isinstance(m, nn.ReLU)] == ["blocks.7.act2"]
    assert sum(isinstance(m, PACT) for m in network.modules()) == 16
    assert type(network.fc) is nn.Linear


def test_each_activation_has_a_clip_level_of_its_own() -> None:
    _, network = quantized()
    alphas = [m.alpha for m in network.modules() if isinstance(m, PACT)]
    assert len({id(alpha) for alpha in alphas}) == len(alphas) == 16


def test_full_precision_equals_the_float_network() -> None:
    network, twin = quantized()
    set_bits(twin, None)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(network.eval()(x), twin.eval()(x))


def test_float_state_loads_and_only_clip_levels_are_new() -> None:
    network, twin = quantized()
    report = twin.load_state_dict(network.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert len(report.missing_keys) == 16
    assert all(key.endswith(".alpha") for key in report.missing_keys)


def test_a_block_input_is_quantized_once_and_feeds_both_paths() -> None:
    _, network = quantized()
    set_bits(network, 2)
    seen: dict[str, torch.Tensor] = {}
    block = network.blocks[2]
    block.conv1.register_forward_hook(lambda m, i, o: seen.update(conv=i[0]))
    block.shortcut.register_forward_hook(lambda m, i, o: seen.update(shortcut=i[0]))
    network.eval()(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert seen["conv"] is seen["shortcut"]
    assert len(seen["conv"].unique()) <= 4


def test_unknown_name_in_the_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="keeps 'stem', which is no module of ResNet18"):
        quantize(ResNet18(width=4), LayerRule(DoReFaWeight, PACT, frozenset({"stem"})))


def test_bits_switch_in_place() -> None:
    _, network = quantized()
    for bits in (8, 2, None):
        set_bits(network, bits)
        assert {m.bits for m in network.modules() if isinstance(m, PACT | DoReFaWeight)} == {bits}
