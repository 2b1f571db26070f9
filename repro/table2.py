"""Table 2 of paper B: one MobileNetV2 at 8, 6, 4 and 2 bits on CIFAR-10.

Deviations of the scales built, numbered; the rest of what the paper does not say is in the
[README](../README.md#what-the-papers-do-not-say-and-what-we-chose):

1. All scales: the network's strides are those usual for CIFAR-10 (stem and second stage 1), its ReLU6 are ReLUs before
   they are quantized, and a block's output, which has both signs, is quantized symmetrically where the next block or
   the head reads it (print: unknown).
2. `cpu`: width multiplier .25 (print: 1), a stem of stride 2 (print: unknown), 16,000 training images (print: 50,000);
   20 FP32 and 3 quantized epochs (print: unknown, 100 to 200 by our reading); a quantized network sees the test set
   once, so that the last epoch is the best one, too.
3. `smoke`: the same network, 2,000 training and 1,000 test images, 3 and 1 epochs.
4. `gpu`: 60 FP32 and 6 quantized epochs, one seed; `paper`: 200 and 200. Neither has been run for want of a GPU; tests
   take their first steps.
5. Bit-Mixer's source speaks of three stages: here the FP32 start is one of them, and the third, a bit-width for each
   layer, begins at once.
"""

from repro.adaptive.problems import CIFAR10, MOBILENETV2, Problem
from repro.adaptive.table import AdaptiveTable

TARGET = AdaptiveTable(
    name="table2",
    title="Table 2: MobileNetV2 on CIFAR-10",
    problem=Problem(MOBILENETV2, CIFAR10),
    changes={
        "smoke": {
            "width_multiplier": 0.25,
            "stem_stride": 2,
            "train_images": 2_000,
            "test_images": 1_000,
            "fp32_epochs": 3,
            "epochs": 1,
            "bn_images": 1_000,
        },
        "cpu": {
            "width_multiplier": 0.25,
            "stem_stride": 2,
            "train_images": 16_000,
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
