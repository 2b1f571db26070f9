"""Table 1 of paper B: one ResNet18 at 8, 6, 4 and 2 bits on CIFAR-10.

Deviations of the scales built, numbered; the rest of what the paper does not say is in the
[README](../README.md#what-the-papers-do-not-say-and-what-we-chose):

1. `cpu`: width 16 (print: 64), a stem of stride 2 (print: 1), 20,000 training images (print: 50,000); 20 FP32 and 3
   quantized epochs (print: unknown, 100 to 200 by our reading); a quantized network sees the test set once, so that the
   last epoch is the best one, too.
2. `smoke`: width 8, 10,000 training and 2,000 test images, 3 and 1 epochs.
3. `gpu`: 60 FP32 and 6 quantized epochs, one seed; `paper`: 200 and 200. Neither has been run for want of a GPU; tests
   take their first steps.
4. Bit-Mixer's source speaks of three stages: here the FP32 start is one of them, and the third, a bit-width for each
   layer, begins at once.
"""

from repro.adaptive.problems import CIFAR10, RESNET18, Problem
from repro.adaptive.table import AdaptiveTable

TARGET = AdaptiveTable(
    name="table1",
    title="Table 1: ResNet18 on CIFAR-10",
    problem=Problem(RESNET18, CIFAR10),
    changes={
        "smoke": {
            "width": 8,
            "stem_stride": 2,
            "train_images": 10_000,
            "test_images": 2_000,
            "fp32_epochs": 3,
            "epochs": 1,
            "bn_images": 2_000,
        },
        "cpu": {
            "width": 16,
            "stem_stride": 2,
            "train_images": 20_000,
            "fp32_epochs": 20,
            "epochs": 3,
            "test_once": True,
        },
        "gpu": {"fp32_epochs": 60, "epochs": 6},
        "paper": {},
    },
    seeds={"smoke": 1, "cpu": 3, "gpu": 1, "paper": 3},
    ours=("cpu",),
    doc=__doc__,
)
