"""Which images a network classifies correctly, and batch-norm statistics re-estimated on data."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from repro.training.batches import AnyBatches
from repro.training.distributed import all_gather, average_statistics


@torch.inference_mode()
def correct(network: nn.Module, batches: AnyBatches) -> np.ndarray:
    """Whether the arg-max of the logits is the label, for each image in order: bool (N,)."""
    network.eval()
    hits = [(network(images).argmax(1) == labels).cpu().numpy() for images, labels in batches.plain()]
    return all_gather(np.concatenate(hits))


def top1(hits: np.ndarray) -> float:
    """Percentage of hits.

    >>> top1(np.array([True, True, False, True]))
    75.0
    """
    return 100.0 * float(hits.mean())


def calibrate_batch_norm(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Re-estimate every running mean and variance on batches of (images, labels), forward passes only.

    The running statistics become the plain average of the batch statistics; no parameter changes. A batch norm that no
    batch reaches, as that of another bit-width, is reset to mean 0 and variance 1.
    """
    update_bn((images for images, _ in batches), network)
    average_statistics(network)
    network.eval()
