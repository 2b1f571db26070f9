"""A small depthwise network of EfficientNet-Lite's family, for images of 32 pixels."""

from __future__ import annotations

from timm.models.efficientnet import EfficientNet, decode_arch_def
from torch import nn

BLOCKS = (["ds_r1_k3_s2_e1_c16"], ["ir_r1_k3_s1_e2_c16"], ["ir_r2_k3_s2_e4_c32"])
"""As timm writes them: kind (`ds` depthwise separable, `ir` inverted residual), repeats, kernel, stride, expansion,
channels."""
STEM, FEATURES = 16, 128


def lite_small(classes: int = 10) -> nn.Module:
    """Depthwise separable and inverted residual blocks with ReLU6 and no squeeze-excite, as in EfficientNet-Lite.

    Images (N, 3, 32, 32) to logits (N, classes); layers have the names of EfficientNet-Lite0's.

    >>> import torch
    >>> net = lite_small().eval()
    >>> net(torch.zeros(2, 3, 32, 32)).shape, sum(p.numel() for p in net.parameters())
    (torch.Size([2, 10]), 21930)
    """
    return EfficientNet(
        decode_arch_def([*BLOCKS]),
        num_classes=classes,
        num_features=FEATURES,
        stem_size=STEM,
        fix_stem=True,
        act_layer=nn.ReLU6,
    )
