"""Table 3 of paper B: one ResNet18 at 8, 6, 4 and 2 bits on ImageNet.

`paper` is the published set-up as far as it is known. What the paper does not say, numbered, beside what the
[README](../README.md#what-the-papers-do-not-say-and-what-we-chose) says:

1. The FP32 start is trained here, 100 epochs (print: unknown; torchvision's weights are likely).
2. Quantized training: 100 epochs, as two later papers quote it; batch 256 and weight decay 1e-4, ImageNet's usual ones.

`smoke` is a stand-in that proves the pipeline and says nothing of the print: CIFAR-10 at 32 pixels through the network
with the ImageNet stem, of width 8, 5,000 training and 2,000 test images, 3 and 1 epochs.
"""

from repro.adaptive.problems import CIFAR10, IMAGENET, IMAGENET_RESNET18, Problem, StandIn
from repro.adaptive.table import AdaptiveTable

TARGET = AdaptiveTable(
    name="table3",
    title="Table 3: ResNet18 on ImageNet",
    problem=Problem(IMAGENET_RESNET18, IMAGENET),
    changes={
        "smoke": {
            "width": 8,
            "stem_stride": 2,
            "train_images": 5_000,
            "test_images": 2_000,
            "fp32_epochs": 3,
            "epochs": 1,
            "bn_images": 2_000,
        },
        "paper": {"stem_stride": 2, "batch": 256, "weight_decay": 1e-4, "fp32_epochs": 100, "epochs": 100},
    },
    seeds={"smoke": 1, "paper": 1},
    stand_ins={"smoke": StandIn(Problem(IMAGENET_RESNET18, CIFAR10), "CIFAR-10 through the ImageNet-stem network")},
    doc=__doc__,
)
