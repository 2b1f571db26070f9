"""ResNet18: the ImageNet stem is torchvision's, and the network on clips averages over frames."""

import torch
import torchvision

from repro.networks.quantize import LayerRule, quantize
from repro.networks.resnet import FrameAveragedResNet18, ResNet18
from repro.quantizers import PACT, DoReFaWeight

GENERATOR = torch.Generator().manual_seed(0)


def test_the_imagenet_network_computes_what_torchvision_does() -> None:
    """With torchvision's weights in torchvision's order the logits are the same."""
    theirs = torchvision.models.resnet18().eval()
    ours = ResNet18(stem_stride=2, classes=1000, stem="imagenet").eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 96, 96, generator=GENERATOR)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


def test_a_clip_gets_the_mean_of_its_frames_in_any_order() -> None:
    network = FrameAveragedResNet18(width=4, stem_stride=2, stem="imagenet").eval()
    clips = torch.randn(2, 5, 3, 32, 32, generator=GENERATOR)
    with torch.inference_mode():
        logits = network(clips)
        by_frame = torch.stack([ResNet18.forward(network, clips[:, t]) for t in range(5)], 1)
        torch.testing.assert_close(logits, by_frame.mean(1))
        torch.testing.assert_close(logits, network(clips.flip(1)))


def test_a_network_on_clips_quantizes_as_one_on_images() -> None:
    keep = frozenset({"conv1", "fc", "blocks.7.act2"})
    networks = [
        quantize(kind(width=4), LayerRule(DoReFaWeight, PACT, keep)) for kind in (ResNet18, FrameAveragedResNet18)
    ]
    images, clips = (list(network.state_dict()) for network in networks)
    assert images == clips
    assert len(networks[1].layers()) == 16
