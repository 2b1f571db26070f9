"""Table 4 of paper B: one ResNet18, frames averaged, at 8, 6, 4 and 2 bits on Mini-Kinetics.

`paper` is the published set-up as far as it is known. What the paper does not say, numbered, beside what the
[README](../README.md#what-the-papers-do-not-say-and-what-we-chose) says:

1. 8 frames a clip (print: 8 or 16 by our reading), random-resized crop to 224 and flip, alike for all frames of a clip.
2. The FP32 start is trained here from nothing, 100 epochs (print: unknown; ImageNet's weights are likely). Quantized
   training: 100 epochs; batch 64.
3. Clip levels learn at .1, at every bit-width (by our reading low bit-widths may have had .01 and a decay of 6e-2:
   `alpha_lr_low`, `alpha_weight_decay_low`).

`smoke` is a stand-in that proves the pipeline and says nothing of the print: moving CIFAR, 4 of 8 frames at 32 pixels,
width 8, 1,500 training and 500 test clips, 3 and 1 epochs. It is about the class of the image behind, since a network
that averages over frames cannot see their order: see `repro.datasets.moving_cifar`.
"""

from repro.adaptive.problems import FRAME_AVERAGED_RESNET18, MINI_KINETICS, MOVING_CIFAR, Problem, StandIn
from repro.adaptive.table import AdaptiveTable

TARGET = AdaptiveTable(
    name="table4",
    title="Table 4: ResNet18 with averaged frames on Mini-Kinetics",
    problem=Problem(FRAME_AVERAGED_RESNET18, MINI_KINETICS),
    changes={
        "smoke": {
            "width": 8,
            "stem_stride": 2,
            "frames": 4,
            "train_images": 1_500,
            "test_images": 500,
            "fp32_epochs": 3,
            "epochs": 1,
            "bn_images": 500,
        },
        "paper": {"stem_stride": 2, "classes": 200, "batch": 64, "fp32_epochs": 100, "epochs": 100, "alpha_lr": 0.1},
    },
    seeds={"smoke": 1, "paper": 1},
    stand_ins={
        "smoke": StandIn(Problem(FRAME_AVERAGED_RESNET18, MOVING_CIFAR), "moving CIFAR, the class of the image behind")
    },
    doc=__doc__,
)
