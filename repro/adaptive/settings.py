"""Named settings of Tables 1-4: what each means, its default, and which units it can change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from repro.errors import UsageError
from repro.targets import Scalar


@dataclass(frozen=True)
class Setting:
    """One named setting that is a number.

    Attributes:
        default: value where a scale says nothing else.
        low, high: allowed range of a number, both ends included.
        alternatives: what else is plausible; set where the paper does not give the value, and we chose it.
        unsaid: whether a unit keeps it only where it is not the default.
        optional: whether None, for what is left out, is a value too.
    """

    name: str
    default: Scalar
    low: float
    high: float
    meaning: str
    alternatives: str = ""
    unsaid: bool = False
    optional: bool = False

    def check(self, value: Scalar) -> None:
        """Raise `UsageError`, naming the setting, the value and its range, for one that cannot be used."""
        if value is None and self.optional:
            return
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            none = ", or none" * self.optional
            raise UsageError(f"{self.name}={value}: give a value from {self.low:g} to {self.high:g}{none}")


@dataclass(frozen=True)
class Choice:
    """One named setting that is a reading of the paper, by a word; a unit keeps it only where it is not the default.

    Attributes:
        options: the words there are; the first is our reading.
    """

    unsaid: ClassVar[bool] = True

    name: str
    options: tuple[str, ...]
    meaning: str

    @property
    def default(self) -> Scalar:
        """The first option."""
        return self.options[0]

    @property
    def alternatives(self) -> str:
        """The other options, in words."""
        return ", ".join(self.options[1:])

    def check(self, value: Scalar) -> None:
        """Raise `UsageError`, naming the choice and its options, for a value that is none of them."""
        if value not in self.options:
            raise UsageError(f"{self.name}={value}: give one of {', '.join(self.options)}")


WEIGHTS = ("nested", "nearest", "floor", "centred", "nested_restored", "nearest_restored")
"""Weight schemes (`repro.quantizers.schemes.weight`): codes, and whether the scale is restored."""
_ALL: tuple[Setting | Choice, ...] = (
    # Strided 1x1 convolutions of fewer than 8 channels, channels-last, break the heap in oneDNN without AVX-512.
    Setting("width", 64, 8, 512, "channels of the first stage; 64 is the published network"),
    Setting("width_multiplier", 1.0, 0.1, 4, "MobileNetV2: of all channels; 1 is the published network"),
    Setting("stem_stride", 1, 1, 4, "stride of the first convolution; 1 is the published network"),
    Setting("train_images", 50_000, 1, 50_000, "first training images used"),
    Setting("test_images", 10_000, 1, 10_000, "first test images used"),
    Setting(
        "crop_padding",
        4,
        0,
        16,
        "black pixels at each side of a training image, before its size is cut out",
        "0",
        unsaid=True,
    ),
    Setting("flip", 0.5, 0, 1, "probability that a training image is mirrored", "0", unsaid=True),
    Setting("image_size", 224, 8, 1024, "pixels of a side that photographs and frames are cut to", "other sizes"),
    Setting("crop_area", 0.08, 0.01, 1, "least part of a photograph or frame that training sees", "more", unsaid=True),
    Setting("classes", 1000, 2, 100_000, "number of classes that must be there"),
    Setting("frames", 8, 1, 64, "frames of a clip, one of each segment", "16"),
    Setting("validation", False, 0, 1, "test on 5,000 training images that are held out, not on the test set"),
    Setting("test_once", False, 0, 1, "test after the last epoch alone"),
    Setting("batch", 128, 1, 50_000, "images in a batch"),
    Setting("momentum", 0.9, 0, 1, "SGD momentum"),
    Setting("weight_decay", 5e-4, 0, 1, "of all parameters but clip levels", "1e-4"),
    Setting("fp32_epochs", 200, 1, 1000, "epochs of the FP32 start"),
    Setting("fp32_lr", 0.1, 0, 10, "peak learning rate of the FP32 start"),
    Choice("schedule", ("cosine", "linear"), "course of all learning rates from their peaks to 0"),
    Setting("epochs", 200, 1, 1000, "quantized epochs per bit-width"),
    Setting("lr", 0.05, 0, 10, "peak learning rate of what is not quantized", ".1, .01"),
    Setting("weight_lr", 0.05, 0, 10, "peak learning rate of quantized weights", ".005"),
    Setting("alpha_start", 2.0, 1e-3, 1e3, "clip level that training starts from", "8"),
    Setting("alpha_lr", 0.05, 0, 10, "peak learning rate of clip levels", ".1, .01"),
    Setting("alpha_weight_decay", 5e-4, 0, 1, "weight decay of clip levels", "0"),
    Setting("alpha_lr_low", None, 0, 10, "`alpha_lr` at 2 bits; none: the same", ".01", unsaid=True, optional=True),
    Setting(
        "alpha_weight_decay_low",
        None,
        0,
        1,
        "`alpha_weight_decay` at 2 bits; none: the same",
        "6e-2",
        unsaid=True,
        optional=True,
    ),
    Setting("realign_in_graph", False, 0, 1, "differentiate max|tanh w| and mean(h)/mean(l) too", "they are"),
    Setting(
        "lambda_start", 0.0, 0, 1e3, "CoQuant: weight of nearness in teacher selection, at first", "more", unsaid=True
    ),
    Setting("lambda_end", 0.02, 0, 1e3, "the same at the end, after a linear course", "1"),
    Setting("soft_weight", 1.0, 1e-6, 100, "weight of the soft target's cross-entropy"),
    Setting("matched_loss", False, 0, 1, "divide the loss of a taught bit-width by the sum of its weights"),
    Setting("temperature", 1.0, 0.01, 100, "of the soft target"),
    Setting("swap_start", 0.1, 0, 1, "CoQuant: probability that a block is the student's, at first", ".5"),
    Setting("swap_end", 1.0, 0, 1, "the same at the end, after a linear course", "less", unsaid=True),
    Setting("swap_by_depth", True, 0, 1, "CoQuant: early blocks use the teacher more, linear in their index", "alike"),
    Setting("swap_trains_teacher", False, 0, 1, "CoQuant: swapped blocks learn from the student's loss", "they do"),
    Setting("mixer_uniform", 0.5, 0, 1, "Bit-Mixer: first part of training, one bit-width for all layers", "gradual"),
    Setting(
        "alpha_percentile",
        99.9,
        0.01,
        100,
        "DQ (32 bit): clip level, of each activation; none: `alpha_start`",
        "100 (the maximum), none",
        optional=True,
    ),
    Setting("alpha_images", 1000, 1, 50_000, "DQ (32 bit): training images that set clip levels"),
    Setting(
        "bn_images",
        10_000,
        1,
        50_000,
        "BN calibration: training images, whole batches if augmented; averaged over batches",
    ),
    Setting("bn_augmented", True, 0, 1, "BN calibration: images augmented as in training", "plain images"),
    Choice("weights", WEIGHTS, "weight scheme"),
    Choice("ends", ("float", "8_bit"), "weights of the first convolution and of the last linear layer"),
    Choice("identity", ("quantized", "float"), "what a block's identity path takes: what its convolutions do, or x"),
    Choice("clip", ("usual", "shared", "per_bit"), "clip levels where bit-widths are taught or drawn at random"),
    Choice("entropy", ("mean", "sum"), "CoQuant: of a batch of predictions, in teacher selection"),
    Choice("distance", ("mean", "sum"), "CoQuant: L1 distance within a layer, in teacher selection"),
)
SETTINGS = {setting.name: setting for setting in _ALL}
UNSAID = {setting.name: setting.default for setting in _ALL if setting.unsaid}
"""What records leave out where it is just this: who changes one raises NUMERICS of the targets that read it."""
KEPT = 45_000
"""Training images of CIFAR-10 beside those that may be held out."""
ARTEFACT = "network.pt"
"""File that a trained unit leaves for those that start from it."""
BEST_EPOCH = ("gpu", "paper")
"""Scales that report the best epoch, as the paper does; at the others the last one's accuracy is read."""
START = ("batch", "momentum", "weight_decay", "fp32_epochs", "fp32_lr", "schedule")
"""Settings that the FP32 start depends on beside those of its network and data."""
TRAINED = ("epochs", "lr", "weight_lr", "alpha_start", "alpha_lr", "alpha_weight_decay", "realign_in_graph")
"""Settings of quantized training, beside those of its start."""
LOW_ALPHA = ("alpha_lr_low", "alpha_weight_decay_low")
"""The same, of clip levels of 2 bits alone."""
STRUCTURE = ("ends", "identity")
"""Settings of what is quantized at all."""
OPEN_CLIP = ("clip",)
SOFT_TARGET = ("soft_weight", "temperature")
NEAREST = ("distance",)
SELECTED = ("lambda_start", "lambda_end", "entropy", *NEAREST)
SWAPPED = ("swap_start", "swap_end", "swap_by_depth", "swap_trains_teacher")
RANDOM_BITS = ("mixer_uniform",)
PERCENTILE = ("alpha_percentile", "alpha_images")
CALIBRATED = ("bn_images", "bn_augmented")
TESTED = ("test_once",)
"""Settings of how a quantized network is tested while it is trained."""
COMMON = (
    *START, *TRAINED, *LOW_ALPHA, *TESTED, *SOFT_TARGET, *SELECTED, *SWAPPED, *RANDOM_BITS, *PERCENTILE, *CALIBRATED,
    "weights", *STRUCTURE, *OPEN_CLIP,
)  # fmt: skip
"""Settings of every table; to these come those of its network and data."""


def with_defaults(**changed: Scalar) -> dict[str, Scalar]:
    """All settings there are: defaults but for those that are changed."""
    return {name: setting.default for name, setting in SETTINGS.items()} | changed


def of_unit(settings: Mapping[str, Scalar], names: Iterable[str]) -> dict[str, Scalar]:
    """Settings of these names as a unit keeps them: all but the unsaid ones that have their default.

    >>> of_unit(with_defaults(), ["lambda_end", "entropy"]), of_unit(with_defaults(entropy="sum"), ["entropy"])
    ({'lambda_end': 0.02}, {'entropy': 'sum'})
    """
    kinds = {name: SETTINGS[name] for name in names}
    return {
        name: settings[name] for name, kind in kinds.items() if not (kind.unsaid and settings[name] == kind.default)
    }


def left_out(names: Iterable[str]) -> dict[str, Scalar]:
    """Of these settings those that records leave out where they are just this.

    >>> left_out(["width", "flip"])
    {'flip': 0.5}
    """
    return {name: UNSAID[name] for name in names if name in UNSAID}


def check(settings: Mapping[str, Scalar]) -> None:
    """Raise `UsageError`, naming the setting, its value and its range, for a value that cannot be used.

    Who has the setting `validation` has data of which some images are held out, whatever its value.

    >>> check(with_defaults(epochs=0))
    Traceback (most recent call last):
    repro.errors.UsageError: epochs=0: give a value from 1 to 1000
    """
    for name, value in settings.items():
        SETTINGS[name].check(value)
    batch, images = settings["batch"], settings.get("train_images")
    if "validation" in settings and images is not None and images > KEPT:  # type: ignore[operator]
        raise UsageError(f"train_images={images}: {KEPT} are left beside those held out")
    for name in ("batch", "bn_images", "alpha_images"):
        used = settings.get(name)
        if images is not None and used is not None and used > images:  # type: ignore[operator]
            raise UsageError(f"{name}={used}: give at most train_images={images}")
    calibration = settings.get("bn_images")
    if calibration is not None and batch > calibration:  # type: ignore[operator]
        raise UsageError(f"bn_images={calibration}: give at least batch={batch}")
