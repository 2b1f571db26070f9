"""ResNet18 for small images, for ImageNet's, and for clips; of width 64 it is the published network.

Written out here because every activation needs a module of its own (a clip level each): torchvision's block uses one
ReLU twice, timm's residual network has a fixed width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

STAGES = (1, 2, 4, 8)
BLOCKS_PER_STAGE = 2


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity or 1x1 path: `act2(bn2(conv2(act1(bn1(conv1(q))))) + shortcut(q))`.

    q is the input x, or `input(x)`: the place of a quantizer that an identity path goes round.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, float_identity: bool) -> None:
        super().__init__()
        self.input: nn.Module = nn.ReLU() if float_identity else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        q = self.input(x)
        y = self.act1(self.bn1(self.conv1(q)))
        return self.act2(self.bn2(self.conv2(y)) + (x if isinstance(self.shortcut, nn.Identity) else self.shortcut(q)))


class ResNet18(nn.Module):
    """ResNet18 on images: (N, 3, H, W) float to (N, classes) logits.

    Args:
        width: channels of the first stage; the published network has 64.
        stem_stride: of the first convolution. In the published networks 1 with the stem `cifar` (2 makes everything
            behind it four times cheaper) and 2 with `imagenet`.
        classes: number of classes.
        stem: `cifar`, a 3x3 convolution; or `imagenet`, 7x7 and a max-pool of stride 2.
        float_identity: whether identity paths go round the quantizer of their block's input. The ReLU of a block's
            output then stays, and a second one, which changes nothing, is where the next block is to be quantized.

    >>> import torch
    >>> net = ResNet18(width=8, stem_stride=2)
    >>> net(torch.zeros(2, 3, 32, 32)).shape, len(list(net.blocks))
    (torch.Size([2, 10]), 8)
    >>> imagenet = ResNet18(stem_stride=2, classes=1000, stem="imagenet")
    >>> sum(parameter.numel() for parameter in imagenet.parameters())  # as torchvision's
    11689512
    """

    ends = ("conv1", "fc")
    """Stem and classifier."""
    full_precision = frozenset({*ends, "blocks.7.act2"})
    """Not quantized: the ends, and the activation between the last block and the pool."""

    def __init__(
        self,
        width: int = 64,
        stem_stride: int = 1,
        classes: int = 10,
        stem: Literal["cifar", "imagenet"] = "cifar",
        float_identity: bool = False,
    ) -> None:
        super().__init__()
        if float_identity:
            self.full_precision = self.full_precision | {"act1", *(f"blocks.{index}.act2" for index in range(7))}
        kernel = {"cifar": 3, "imagenet": 7}[stem]
        self.conv1 = nn.Conv2d(3, width, kernel, stem_stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.stem_pool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        blocks: list[BasicBlock] = []
        channels = width
        for stage, factor in enumerate(STAGES):
            for index in range(BLOCKS_PER_STAGE):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(BasicBlock(channels, factor * width, stride, float_identity))
                channels = factor * width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem_pool(self.act1(self.bn1(self.conv1(x)))))
        return self.fc(self.pool(x).flatten(1))

    def layers(self) -> list[list[nn.Module]]:
        """Modules that share a bit-width when each layer has its own, in order: input quantizer, convolutions, norms.

        The stem's batch norm belongs to the first layer, whose input it makes.

        >>> len(ResNet18(width=4).layers())
        16
        """
        found: list[list[nn.Module]] = []
        incoming: list[nn.Module] = [self.bn1, self.act1]
        for block in self.blocks:
            assert isinstance(block, BasicBlock)
            found.append([*incoming, block.input, block.conv1, block.bn1, block.shortcut])
            found.append([block.act1, block.conv2, block.bn2])
            incoming = [block.act2]
        return found

    def swappable(self) -> list[list[nn.Module]]:
        """Modules of each residual block, with the quantizer of its input; that of its output is the next block's.

        >>> net = ResNet18(width=4)
        >>> first, second, *_ = net.swappable()
        >>> net.act1 in first, net.blocks[0].act2 in first, net.blocks[0].act2 in second
        (True, False, True)
        """
        layers = self.layers()
        return [first + second for first, second in zip(layers[::2], layers[1::2], strict=True)]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class FrameAveragedResNet18(ResNet18):
    """ResNet18 on clips: each frame on its own, logits averaged: (N, T, 3, H, W) float to (N, classes).

    The order of the frames is nothing to it. Modules, their names and arguments are ResNet18's. Source: Wang et al.
    2016, Temporal Segment Networks; paper B, Table 4.

    >>> import torch
    >>> FrameAveragedResNet18(width=4)(torch.zeros(2, 5, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return super().forward(frames).unflatten(0, x.shape[:2]).mean(1)
