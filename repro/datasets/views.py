"""How a network sees photographs: a random crop, mirrored or not, in training; the centre in a test."""

from __future__ import annotations

from torchvision.transforms import v2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


SMALLEST, FLIP = 0.08, 0.5


def training_view(size: int, smallest: float = SMALLEST, flip: float = FLIP) -> v2.Transform:
    """A crop of random shape and area (the part `smallest` or more), resized to `size` pixels square, and mirrored.

    It is mirrored with probability `flip`. Draws from torch's global generator. PIL images or uint8 (..., 3, H, W),
    whose leading dimensions share the draw; the same kind out.

    Source: Szegedy et al. 2015; torchvision's ImageNet recipe.
    """
    return v2.Compose([v2.RandomResizedCrop(size, (smallest, 1.0), antialias=True), v2.RandomHorizontalFlip(flip)])


def central_view(size: int) -> v2.Transform:
    """The shorter side resized to 8/7 of `size` (256 for 224), and the centre of `size` pixels square cut out."""
    return v2.Compose([v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size)])
