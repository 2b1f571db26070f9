"""Pretrained networks: the right weights in the right network, folding that changes nothing, the paper's signs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repro.datasets import imagenet_samples
from repro.errors import UsageError
from repro.networks import post_training, pretrained
from repro.quantizers.calibration import Histogram, Range, calibrate

RIGHT = 18
"""Of the twenty labelled images; as the seminar gives it."""
ACTIVATIONS = {"efficientnet_lite0": 6_676_256, "mobilenetv2": 6_616_672 - 1280}
"""Quantized activations per image, as the seminar gives them; MobileNetV2's here lack the classifier's input."""


@pytest.fixture(scope="module")
def samples() -> imagenet_samples.Samples:
    return imagenet_samples.load()


load = cache(pretrained.load)
"""Each network is made once: nobody here changes it."""


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    return load("efficientnet_lite0")


@pytest.fixture(scope="module")
def images(samples: imagenet_samples.Samples) -> Tensor:
    return pretrained.get("efficientnet_lite0").normalise(torch.from_numpy(samples.images.copy()))


@torch.inference_mode()
def test_lite0_gets_18_of_the_20_labelled_images_right(
    lite0: nn.Module, images: Tensor, samples: imagenet_samples.Samples
) -> None:
    assert int((lite0(images).argmax(1).numpy() == samples.labels).sum()) == RIGHT


@torch.inference_mode()
@pytest.mark.parametrize("name", pretrained.NETWORKS)
def test_folding_changes_nothing_but_rounding(name: str, images: Tensor) -> None:
    folded, plain = load(name), load(name, fold=False)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    exact = plain(images[:2])
    assert (folded(images[:2]) - exact).abs().max() < 1e-4 * exact.abs().max()
    assert exact.shape == (2, pretrained.get(name).classes or 1280)


@pytest.mark.parametrize("name", pretrained.NETWORKS)
def test_what_is_quantized_is_what_the_paper_counts(name: str, images: Tensor) -> None:
    network = load(name)
    histograms = post_training.watch(network, [images[:1]], pretrained.get(name).signed, every=1)
    assert sum(int(histogram.total) for histogram in histograms.values()) == ACTIVATIONS[name]


def test_weights_of_lite0_are_as_many_as_the_paper_counts(lite0: nn.Module) -> None:
    """4,609,992 with the classifier's 1000 biases."""
    assert sum(module.weight.numel() for module in post_training.layers(lite0).values()) + 1000 == 4_609_992  # type: ignore[operator]


def test_inputs_without_sign_are_never_negative(lite0: nn.Module, images: Tensor) -> None:
    known = pretrained.get("efficientnet_lite0")
    lowest: dict[str, float] = {}
    layers = post_training.layers(lite0)
    handles = [
        module.register_forward_pre_hook(lambda _, x, name=name: lowest.__setitem__(name, x[0].min().item()))
        for name, module in layers.items()
    ]
    with torch.inference_mode():
        lite0(images[:2])
    for handle in handles:
        handle.remove()
    assert all(lowest[name] >= 0 for name in layers if not known.signed(name))
    assert lowest["conv_head"] < 0
    assert lowest["blocks.1.0.conv_pw"] < 0


def test_normalisation_is_that_of_the_weights() -> None:
    black = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    assert pretrained.get("efficientnet_lite0").normalise(black).unique().item() == -127 / 128
    assert pretrained.get("mobilenetv2").normalise(black)[0, 0, 0, 0].item() == pytest.approx(-0.485 / 0.229)


def test_unknown_networks_suggest_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean mobilenetv2"):
        pretrained.load("mobilenet_v2")


class TestPostTraining:
    """On a small network, so that everything can be computed by hand."""

    @pytest.fixture
    def net(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(2 * 36, 5)
        ).eval()

    @pytest.fixture
    def x(self) -> Tensor:
        return torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32))

    def test_watches_the_input_of_every_layer_but_the_first(self, net: nn.Module, x: Tensor) -> None:
        seen = post_training.watch(net, x.split(2), lambda name: name != "2", every=1)
        assert list(seen) == ["2", "4"]
        with torch.inference_mode():
            expected = Histogram(signed=False)
            expected.observe(net[1](net[0](x)))
        assert torch.equal(seen["2"].counts, expected.counts)
        assert not any(module._forward_pre_hooks for module in net.modules())

    @torch.inference_mode()
    def test_inputs_are_quantized_only_within(self, net: nn.Module, x: Tensor) -> None:
        exact = net(x)
        hidden = net[1](net[0](x))
        found = calibrate(hidden, "max", bits=3, signed=False)
        rounded = (hidden / np.float32(found.step)).round() * np.float32(found.step)
        with post_training.quantized_inputs(net, {"2": found}):
            assert torch.equal(net(x), net[4](net[3](net[2](rounded))))
        assert torch.equal(net(x), exact)

    def test_weights_per_channel_lie_on_a_grid_each(self, net: nn.Module) -> None:
        ranges = post_training.weight_ranges(net, "max", 3, per_channel=True)
        ratios = post_training.quantize_weights(net, ranges)
        assert list(ratios) == ["0", "2", "4"]
        for name, module in post_training.layers(net).items():
            codes = module.weight.flatten(1) / torch.as_tensor(ranges[name].step).float()[:, None]  # type: ignore[union-attr]
            assert torch.equal(codes.round().abs().amax(1), torch.full((len(codes),), 3.0))
            assert (codes - codes.round()).abs().max() < 1e-5
            assert 5 < ratios[name] < 40

    def test_noise_is_that_of_the_outputs_and_none_where_nothing_changed(self, net: nn.Module, x: Tensor) -> None:
        import copy

        other = copy.deepcopy(net)
        assert all(noise == 0 for _, noise in post_training.layer_noise(other, net, [x]).values())
        with torch.no_grad():
            other[2].weight.mul_(1.5)  # type: ignore[union-attr, operator]
            other[2].bias.mul_(1.5)  # type: ignore[union-attr, operator]
        powers = post_training.layer_noise(other, net, x.split(3))
        assert powers["0"][1] == 0
        assert post_training.decibel(*powers["2"]) == pytest.approx(20 * np.log10(2), abs=1e-3)

    def test_a_backend_asked_for_is_used(self, net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        import backends

        asked = []
        get = backends.get
        monkeypatch.setattr(backends, "get", lambda name, device: asked.append(name) or get(name, device))
        with post_training.quantized_inputs(net, {"4": Range(0.5, -1.0, 1.0)}, "eager"):
            net(x)
        assert asked == ["eager"]
