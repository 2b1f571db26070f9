"""Who teaches: entropy, distance of weights, and the selection, on hand-computed cases."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from repro.adaptive.teachers import choose, entropy, select, weight_distances
from repro.networks.quantize import LayerRule, quantize, set_bits
from repro.quantizers import PACT, DoReFaWeight


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def test_entropy_is_that_of_the_prediction_averaged_over_the_batch() -> None:
    both = torch.cat([logits_of(0.5, 0.5), logits_of(0.9, 0.1)])
    second = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert entropy(both).item() == pytest.approx((math.log(2) + second) / 2)


def test_distance_is_the_mean_absolute_difference_summed_over_layers() -> None:
    """Hand-computed: weights (-1, -.1, .1, 1) are (-1, -.129, .129, 1) at 8 bits and (-1, -1/3, 1/3, 1) at 2."""
    layers = [nn.Conv2d(1, 4, 1, bias=False) for _ in range(2)]
    for layer in layers:
        layer.weight.data.copy_(torch.tensor([-1.0, -0.1, 0.1, 1.0]).view(4, 1, 1, 1))
    network = quantize(nn.Sequential(*layers), LayerRule(DoReFaWeight, PACT))
    found = weight_distances(network, (8, 4, 2))
    assert found.keys() == {(8, 4), (8, 2), (4, 2)}
    at_8 = 2 * np.array([0, 111, 144, 255]) / 255 - 1
    at_2 = 2 * np.array([0, 64, 128, 192]) / 255 * (127.5 / 96) - 1
    assert found[8, 2] == pytest.approx(2 * np.abs(at_8 - at_2).mean(), abs=1e-6)


def test_distances_of_layers_of_different_size_count_alike() -> None:
    """Hand-computed: at 8 bits the weights -1 and 1 are themselves, as at 2; only the second layer's -.1 moves."""
    layers = [nn.Conv2d(1, 8, 1, bias=False), nn.Conv2d(1, 3, 1, bias=False)]
    layers[0].weight.data.copy_(torch.tensor([-1.0, 1.0] * 4).view(8, 1, 1, 1))
    layers[1].weight.data.copy_(torch.tensor([-1.0, -0.1, 1.0]).view(3, 1, 1, 1))
    network = quantize(nn.Sequential(*layers), LayerRule(DoReFaWeight, PACT))
    found = weight_distances(network, (8, 4, 2))
    alone = weight_distances(network[1], (8, 4, 2))
    weights = {}
    for bits in (8, 4, 2):
        set_bits(network, bits)
        weights[bits] = [layer.quantizer(layer.weight).detach().numpy() for layer in network]
    for high, low in ((8, 4), (8, 2), (4, 2)):
        first, second = (np.abs(a - b).mean() for a, b in zip(weights[high], weights[low], strict=True))
        assert first < 1e-6 < second
        assert found[high, low] == pytest.approx(first + second, rel=1e-5)
        assert alone[high, low] == pytest.approx(second, rel=1e-5)


def test_distances_within_a_layer_may_be_summed() -> None:
    layer = nn.Conv2d(1, 4, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([-1.0, -0.1, 0.1, 1.0]).view(4, 1, 1, 1))
    network = quantize(nn.Sequential(layer), LayerRule(DoReFaWeight, PACT))
    mean, total = (weight_distances(network, (8, 2), within)[8, 2] for within in ("mean", "sum"))
    assert total == pytest.approx(4 * mean)


SURE, HALF_SURE = logits_of(0.98, 0.02), logits_of(0.7, 0.3)
LOGITS = {8: SURE, 6: HALF_SURE}
DISTANCES = {(8, 4): 0.9, (6, 4): 0.2}


def test_early_the_most_confident_teaches_and_late_the_nearest() -> None:
    """H(8) = .098, H(6) = .611: the distances outweigh the .513 between them once lambda exceeds .513 / .7 = .733."""
    assert select(4, LOGITS, DISTANCES, strength=0.0) == 8
    assert select(4, LOGITS, DISTANCES, strength=0.72) == 8
    assert select(4, LOGITS, DISTANCES, strength=0.74) == 6


def test_a_teacher_of_two_bits_by_hand_from_logits_and_weights() -> None:
    """Weights (-1, -.1, .1, 1): codes (0, 111, 144, 255) at 8 bits, (0, 96, 144, 240) (510/480) at 4 and (0, 64, 128,
    192) (510/384) at 2. So (-1, -.129, .129, 1), (-1, -.2, .2, 1) and (-1, -.333, .333, 1): 8 bits are .102 from 2, 4
    bits .067. H(8) = .098 and H(4) = .611, .513 apart, are outweighed once lambda exceeds .513 / .0353 = 14.5."""
    layer = nn.Conv2d(1, 4, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([-1.0, -0.1, 0.1, 1.0]).view(4, 1, 1, 1))
    distances = weight_distances(quantize(nn.Sequential(layer), LayerRule(DoReFaWeight, PACT)), (8, 4, 2))
    assert distances[8, 2] == pytest.approx(0.10196, abs=1e-5)
    assert distances[4, 2] == pytest.approx(0.06667, abs=1e-5)
    logits, generator = {8: SURE, 4: HALF_SURE}, np.random.default_rng(0)
    found = [choose("selected", 2, logits, distances, strength, generator) for strength in (0.0, 14.4, 14.7)]
    assert found == [8, 8, 4]


@pytest.mark.parametrize(("rule", "expected"), [("highest", 8), ("next_higher", 6), ("nearest", 6), ("selected", 8)])
def test_rules(rule: str, expected: int) -> None:
    assert choose(rule, 4, LOGITS, DISTANCES, 0.0, np.random.default_rng(0)) == expected


def test_random_teachers_are_uniform_and_keyed() -> None:
    draws = [choose("random", 4, LOGITS, {}, 0.0, np.random.default_rng(i)) for i in range(400)]
    assert 160 < draws.count(8) < 240
    assert draws == [choose("random", 4, LOGITS, {}, 0.0, np.random.default_rng(i)) for i in range(400)]


def test_measuring_distances_changes_no_parameter() -> None:
    network = quantize(nn.Sequential(nn.Conv2d(1, 2, 3)), LayerRule(DoReFaWeight, PACT))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    weight_distances(network, (8, 2))
    set_bits(network, 8)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
