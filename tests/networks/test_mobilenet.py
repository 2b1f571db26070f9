"""MobileNetV2: its published size, what becomes quantized, and that blocks and layers are all there in order."""

import pytest
import torch
from torch import nn

from repro.adaptive.experiment import quantized
from repro.adaptive.joint import BitMixerStep, JointStep, set_bits_by_layer
from repro.adaptive.methods import BITS, METHODS
from repro.adaptive.settings import with_defaults
from repro.adaptive.teachers import weight_distances
from repro.networks.mobilenet import MobileNetV2
from repro.networks.quantize import QuantizedConv2d, set_bits
from repro.networks.switchable import TransitionalBatchNorm2d
from repro.quantizers import PACT

GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randn(4, 3, 32, 32, generator=GENERATOR)
SETTINGS = with_defaults()


def network_of(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return quantized(MobileNetV2(0.1, stem_stride=2), METHODS[name].recipe, SETTINGS).train()


def test_published_network_has_the_published_size() -> None:
    """3.5 million parameters with ImageNet's classifier, as torchvision's; the map before the pool is 4 x 4 here."""
    assert sum(p.numel() for p in MobileNetV2(classes=1000).parameters()) == 3_504_872
    network = MobileNetV2()
    assert len(network.swappable()) == 17
    with torch.inference_mode():
        assert network.eval().features(IMAGES).shape == (4, 1280, 4, 4)


def test_every_conv_but_the_stem_and_every_activation_but_the_last_is_quantized() -> None:
    network = network_of("individual")
    convs = [name for name, m in network.named_modules() if type(m) is nn.Conv2d]
    assert convs == ["features.0.0"]
    assert sum(isinstance(m, QuantizedConv2d) for m in network.modules()) == 51
    assert [name for name, m in network.named_modules() if isinstance(m, nn.ReLU)] == ["features.18.3"]
    assert [m.signed for m in network.modules() if isinstance(m, PACT)].count(True) == 17
    assert sum(isinstance(m, PACT) for m in network.modules()) == 51
    assert type(network.classifier[1]) is nn.Linear


def test_full_precision_equals_the_float_network() -> None:
    network = network_of("individual").eval()
    twin = MobileNetV2(0.1, stem_stride=2).eval()
    twin.load_state_dict({key: value for key, value in network.state_dict().items() if not key.endswith("alpha")})
    set_bits(network, None)
    with torch.inference_mode():
        assert torch.equal(network(IMAGES), twin(IMAGES))


def test_layers_hold_every_quantized_module_once_in_the_order_of_the_forward_pass() -> None:
    network = network_of("bit_mixer")
    inside = [m for layer in network.layers() for module in layer for m in module.modules()]
    assert len({id(m) for m in inside}) == len(inside)
    for kind in (QuantizedConv2d, PACT, TransitionalBatchNorm2d):
        assert {id(m) for m in network.modules() if isinstance(m, kind)} <= {id(m) for m in inside}
    ran: list[int] = []
    numbers = {id(module): number for number, layer in enumerate(network.layers()) for module in layer}
    for module in network.modules():
        if id(module) in numbers:
            module.register_forward_hook(lambda m, i, o: ran.append(numbers[id(m)]))
    network(IMAGES)
    assert ran == sorted(ran)
    assert set(ran) == set(range(51))


def test_bits_by_layer_tell_a_norm_what_came_before() -> None:
    network = network_of("bit_mixer")
    set_bits_by_layer(network, [8, 6, 4, 2] * 12 + [8, 6, 4])
    block = network.features[2]
    expand = block.conv
    assert [expand[0][0].quantizer.bits, expand[1][0].quantizer.bits, expand[2].quantizer.bits] == [4, 2, 8]
    assert (block.input.bits, expand[0][2].bits, expand[1][2].bits) == (4, 2, 8)  # with the layer that reads them
    assert [(norm.previous, norm.bits) for norm in (expand[0][1], expand[1][1], expand[3])] == [(6, 4), (4, 2), (2, 8)]


@pytest.mark.parametrize("name", ["coquant", "bit_mixer"])
def test_a_step_reaches_every_weight(name: str) -> None:
    network, recipe = network_of(name), METHODS[name].recipe
    step = BitMixerStep if recipe.random_bits else JointStep
    step = step(network, BITS, *(() if recipe.random_bits else (recipe,)), SETTINGS, 10, seed=0)
    step(IMAGES, torch.arange(4), 9)
    assert all(m.weight.grad is not None for m in network.modules() if isinstance(m, nn.Conv2d))


def test_the_nearest_teacher_in_weights_is_the_next_higher() -> None:
    distances = weight_distances(network_of("coquant"), BITS)
    assert distances[4, 2] < distances[6, 2] < distances[8, 2]
