"""MobileNetV2 for small images: torchvision's, with the strides that are usual there."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torchvision.models import mobilenetv2

from repro.networks.quantize import Signed

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of each stage; the second's stride is 2 on ImageNet."""


class InvertedResidual(mobilenetv2.InvertedResidual):
    """torchvision's block, whose input, where it has both signs, can be quantized: for both paths, or for one."""

    float_identity = False

    def __init__(self, inp: int, oup: int, stride: int, expand_ratio: int, **norm: object) -> None:
        super().__init__(inp, oup, stride, expand_ratio, **norm)
        self.input: nn.Module | None = Signed() if expand_ratio != 1 else None  # the first reads the stem's activation

    def forward(self, x: Tensor) -> Tensor:
        q = x if self.input is None else self.input(x)
        y = self.conv(q)
        return (x if self.float_identity else q) + y if self.use_res_connect else y


class MobileNetV2(mobilenetv2.MobileNetV2):
    """MobileNetV2 on small images: (N, 3, H, W) float to (N, classes) logits.

    Every ReLU6 is a ReLU, whose clip is the quantizer's to learn, and there is no dropout.

    Args:
        width_multiplier: of all channels but those of the head, rounded to multiples of 8; the published network has 1.
        stem_stride: 1 as usual for CIFAR-10; 2 makes everything behind it four times cheaper.
        classes: number of classes.
        float_identity: whether identity paths go round the quantizer of their block's input.

    Source: Sandler et al. 2018; strides for CIFAR-10 as in the wide-spread re-implementations.

    >>> import torch
    >>> net = MobileNetV2(width_multiplier=0.5, stem_stride=2)
    >>> net(torch.zeros(2, 3, 32, 32)).shape, len(net.swappable())
    (torch.Size([2, 10]), 17)
    """

    ends = ("features.0.0", "classifier.1")
    """Stem and classifier."""
    full_precision = frozenset({*ends, "features.18.3"})
    """Not quantized: the ends, and the activation before the pool."""

    def __init__(
        self, width_multiplier: float = 1.0, stem_stride: int = 1, classes: int = 10, float_identity: bool = False
    ) -> None:
        settings = [list(stage) for stage in STAGES]
        super().__init__(classes, width_multiplier, settings, dropout=0.0, block=InvertedResidual)
        self.features[18].insert(0, Signed())
        self.features[0][0].stride = (stem_stride, stem_stride)
        for name, module in list(self.named_modules()):
            if isinstance(module, nn.ReLU6):
                self.set_submodule(name, nn.ReLU())
            elif isinstance(module, InvertedResidual):
                module.float_identity = float_identity
        first = self.features[1]
        if float_identity and first.use_res_connect:  # in very narrow networks: 8 channels in and out
            self.full_precision = self.full_precision | {"features.0.2"}
            first.input = nn.ReLU()  # of what is positive already: the place of its quantizer

    def swappable(self) -> list[list[nn.Module]]:
        """Each inverted residual block; the first with the batch norm and the quantizer that make its input."""
        first, *others = self.features[1:-1]
        return [[*list(self.features[0])[1:], first], *([block] for block in others)]

    def layers(self) -> list[list[nn.Module]]:
        """Modules that share a bit-width when each layer has its own, in order: input quantizer, convolution, norm.

        The stem's batch norm belongs to the first layer, whose input it makes.

        >>> layers = MobileNetV2().layers()
        >>> len(layers), [len(layer) for layer in layers[:4]]
        (51, [4, 3, 3, 3])
        """
        found: list[list[nn.Module]] = []
        incoming: list[nn.Module] = list(self.features[0].children())[1:]
        norm_next = False
        for leaf in _leaves(self.features[1:]):
            if isinstance(leaf, nn.Conv2d):
                found.append([*incoming, leaf])
                incoming = []
                norm_next = True
            elif norm_next:
                found[-1].append(leaf)
                norm_next = False
            else:
                incoming.append(leaf)
        return found


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Convolutions, norms and activations, in the order of the forward pass."""
    for child in module.children():
        if isinstance(child, InvertedResidual):
            if child.input is not None:
                yield child.input
            yield from _leaves(child.conv)
        elif isinstance(child, nn.Sequential):
            yield from _leaves(child)
        else:
            yield child
