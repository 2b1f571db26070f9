"""ResNet18 with the CIFAR stem: 3x3, no max-pool; width and stem stride are settings, 64 and 1 the published network.

Written out here because every activation needs a module of its own (a clip level each): torchvision's block uses one
ReLU twice, timm's residual network has a fixed width.
"""

from __future__ import annotations

from torch import Tensor, nn

STAGES = (1, 2, 4, 8)
BLOCKS_PER_STAGE = 2


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity or 1x1 path: `act2(bn2(conv2(act1(bn1(conv1(x))))) + shortcut(x))`."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
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
        y = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet18 for small images: (N, 3, H, W) float to (N, classes) logits.

    Args:
        width: channels of the first stage; the published network has 64.
        stem_stride: 1 in the published network; 2 makes everything behind it four times cheaper.
        classes: number of classes.

    >>> import torch
    >>> net = ResNet18(width=8, stem_stride=2)
    >>> net(torch.zeros(2, 3, 32, 32)).shape, len(list(net.blocks))
    (torch.Size([2, 10]), 8)
    """

    def __init__(self, width: int = 64, stem_stride: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        blocks: list[BasicBlock] = []
        channels = width
        for stage, factor in enumerate(STAGES):
            for index in range(BLOCKS_PER_STAGE):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(BasicBlock(channels, factor * width, stride))
                channels = factor * width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv1(x))))
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
            found.append([*incoming, block.conv1, block.bn1, block.shortcut])
            found.append([block.act1, block.conv2, block.bn2])
            incoming = [block.act2]
        return found

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
