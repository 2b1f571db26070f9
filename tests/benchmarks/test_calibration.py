"""Races of calibration: a pass that is watched against the same pass, and the calibrators of weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from repro.networks import post_training, pretrained
from repro.ptq.experiment import Images
from repro.quantizers.calibration import Histogram

NETWORK = "efficientnet_lite0"


def test_watching(race: Callable) -> None:
    """Histograms that have seen a batch: the first one of a run also loads the compiled loop."""
    known, network = pretrained.get(NETWORK), pretrained.load(NETWORK)
    (images,) = Images(known, 16).cifar10("train", 0, 16)
    seen = {
        name: Histogram(signed=known.signed(name), every=post_training.SAMPLED)
        for name in list(post_training.layers(network))[1:]
    }

    @torch.inference_mode()
    def forward() -> None:
        network(images)

    @torch.inference_mode()
    def watched() -> None:
        with post_training.watching(network, seen):
            network(images)

    race("watching", "Lite0 224 px, batch 16", {"forward": forward, "watched": watched}, base="forward", seconds=30)


def test_weights(race: Callable) -> None:
    network = pretrained.load(NETWORK)
    calibrators = {
        method: partial(post_training.weight_ranges, network, method, 8, per_channel=True)
        for method in ("max", "percentile", "mse", "entropy")
    }
    race("calibrating weights", "Lite0, per channel, 8 bits", calibrators, base="max", seconds=20)
