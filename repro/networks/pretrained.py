"""The ImageNet networks of both papers from timm, with verified weights, in the form that is deployed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from repro.datasets import weights
from repro.datasets.files import Report, quiet
from repro.errors import UsageError, suggestion

SIZE = 224


@dataclass(frozen=True)
class Pretrained:
    """One network: timm's name for it, how its input is normalised, and which of its activations have no sign.

    The images are uint8 RGB of 224 x 224; the network takes `(x - mean) / std`, per colour in units of 0..255.
    """

    name: str
    timm: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: int
    """1000 logits, or 0 where the weights have no classifier: the output is the pooled embedding, 1280 numbers."""
    unsigned: str
    """Pattern of the layers whose input is quantized without sign."""

    def normalise(self, images: Tensor) -> Tensor:
        """Network input, float32 channels-last, of images uint8 (N, 3, H, W)."""
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return images.float().sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)

    def signed(self, layer: str) -> bool:
        """Whether the input of a layer is quantized with sign: paper A's rule.

        Signed: what enters an expanding 1x1, the head and, in Lite0, a depthwise convolution. Unsigned: what enters a
        projecting 1x1 or the classifier, and MobileNetV2's depthwise. Source: the authors' released set-up.

        >>> get("efficientnet_lite0").signed("blocks.1.0.conv_dw"), get("mobilenetv2").signed("blocks.1.0.conv_dw")
        (True, False)
        """
        return not re.fullmatch(self.unsigned, layer)


NETWORKS = {
    network.name: network
    for network in (
        # timm's efficientnet_lite0 has the same shapes, but other padding and epsilon: wrong logits with these weights
        Pretrained(
            name="efficientnet_lite0",
            timm="tf_efficientnet_lite0",
            mean=(127.0, 127.0, 127.0),
            std=(128.0, 128.0, 128.0),
            classes=1000,
            unsigned=r"blocks\.0\.0\.conv_pw|.*\.conv_pwl|classifier",
        ),
        Pretrained(
            name="mobilenetv2",
            timm="mobilenetv2_100",
            mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
            classes=0,
            unsigned=r"blocks\.0\.0\.conv_pw|.*\.conv_pwl|.*\.conv_dw|classifier",
        ),
    )
}


def get(name: str) -> Pretrained:
    """What is known of a network. Raises `UsageError`, with the nearest known name, for an unknown one.

    >>> get("efficientnet_lite1")
    Traceback (most recent call last):
    repro.errors.UsageError: no pretrained network 'efficientnet_lite1': did you mean efficientnet_lite0?
    """
    if name not in NETWORKS:
        raise UsageError(f"no pretrained network {name!r}: {suggestion(name, NETWORKS)}")
    return NETWORKS[name]


def load(name: str, data_root: Path | str | None = None, *, fold: bool = True, report: Report = quiet) -> nn.Module:
    """The network with its weights, in evaluation mode and channels-last; its weights are fetched where missing.

    `fold` puts batch normalisation into the convolutions, as every integer runtime does: the same function, up to
    rounding. Raises `UsageError` for an unknown name, `ReproError` as `datasets.weights.load` does.
    """
    import timm

    known = get(name)
    network = timm.create_model(known.timm, pretrained=False, num_classes=known.classes)
    tensors = weights.load(name, data_root, report)
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    network.eval().requires_grad_(False)
    if fold:
        fold_batch_norm(network)
    return network.to(memory_format=torch.channels_last)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Fold each batch normalisation into the convolution that comes before it in the same module; in place.

        w' = w gamma / sqrt(var + eps),    b' = beta - mean gamma / sqrt(var + eps)

    timm's normalisation layers keep their activation; plain ones become identities.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).eval()
    >>> [type(module).__name__ for module in fold_batch_norm(net)]
    ['Conv2d', 'Identity']
    """
    for parent in list(network.modules()):
        convolution = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and convolution is not None:
                conv = parent.get_submodule(convolution)
                assert isinstance(conv, nn.Conv2d)
                fused = fuse_conv_bn_eval(conv, child)
                conv.weight, conv.bias = fused.weight, fused.bias
                setattr(parent, name, getattr(child, "act", None) or nn.Identity())
            convolution = name if isinstance(child, nn.Conv2d) else None
    return network
