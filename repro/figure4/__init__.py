"""Figure 4 of paper A: which gradient scaler for weights, which for activations, at 3 bits; and at 2 and 4.

From one FP32 network per seed every pair of scalers (weights/activations) trains the same quantized network on the same
images in the same order. All pairs are those of the released results (`published/figure4.csv`); the form of the scalers
is `normalised`, as in the released code. `paper` is the published recipe, on ImageNet. What differs from it at the
other scales, numbered:

1. ImageNet is not at hand: CIFAR-10. EfficientNet-Lite0 starts from the same ImageNet weights, at reduced resolution
   (32 pixels at `cpu`) and with a classifier of ten classes. A small depthwise network of its family, which is not the
   paper's, gives power.
2. One to a few epochs instead of 50, batch 128 or less instead of 1024, SGD with momentum instead of RMSprop, cosine
   without warm-up; at 2 bits ten times the learning rate. Weight decay 1e-5 on all but batch norm and label smoothing
   .1 are the paper's.
3. Random crop by padding and flip instead of random-resized crop.
4. Accuracy of the last epoch, the test set read once (setting `evaluate`), instead of the best epoch's.

And at every scale:

5. An FP32 start for every seed instead of one for all: a conclusion about scalers is then not about one start. What
   the start's recipe is the print does not say: at `paper` scale that of the quantized network.
6. The backward pass uses quantized operands; the released code's unquantized ones are `--set operands=unquantized`.
7. The noise controls draw by (seed, tensor, step).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backends.contract import Scaler, scaler_names
from repro.adaptive.settings import Setting
from repro.errors import UsageError, suggestion
from repro.evidence.claims import Row
from repro.evidence.collection import Evidence
from repro.evidence.power import Design
from repro.figure4.cells import Cell, printed, widths
from repro.targets import Context, Outcome, Scalar, Unit

NUMERICS = 1
"""Raised by hand when the code changes what a unit computes."""

MAIN = 3
"""Bit-width of the printed figure."""
EWGS = ("ewgs", "ewgs")
"""Pair of the delta sweep."""


@dataclass(frozen=True)
class Network:
    """One network of the study.

    Attributes:
        name: begins the names of its units and settings.
        pretrained: name in `networks.pretrained`, None for `networks.lite.lite_small`, which has no weights.
        swept: whether delta is swept over.
    """

    name: str
    label: str
    pretrained: str | None
    swept: bool

    @property
    def start(self) -> str:
        """Name of the unit that all others of this network start from."""
        return f"{self.name}_fp32"

    def bits(self, settings: Mapping[str, Scalar]) -> tuple[int, ...]:
        """Bit-widths it is trained at. Raises `UsageError` for others than the released ones."""
        text = str(settings[f"{self.name}_bits"])
        found = [word.strip() for word in text.split(",")]
        for word in found:
            if word not in map(str, widths()):
                raise UsageError(f"{self.name}_bits={text}: give some of {','.join(map(str, widths()))}")
        return tuple(bits for bits in widths() if str(bits) in found)


NETWORKS = {
    network.name: network
    for network in (
        Network("small", "small depthwise network", None, swept=True),
        Network("lite0", "EfficientNet-Lite0", "efficientnet_lite0", swept=False),
    )
}

IMAGENET_IMAGES = 1_281_167
_START = (
    Setting("size", 32, 16, 512, "pixels that images are enlarged to"),
    Setting("batch", 128, 2, 50_000, "images in a batch"),
    Setting("fp32_images", 50_000, 2, IMAGENET_IMAGES, "first training images of the FP32 start"),
    Setting("fp32_epochs", 4, 1, 1000, "epochs of the FP32 start"),
    Setting("fp32_lr", 0.1, 0, 10, "peak learning rate of the FP32 start, cosine to 0"),
    Setting("test_images", 10_000, 1, 50_000, "test images, drawn once for all"),
)
_TRAINED = (
    Setting("train_images", 10_000, 2, IMAGENET_IMAGES, "first training images of the quantized network"),
    Setting("epochs", 2, 1, 1000, "quantized epochs"),
    Setting("lr", 0.1, 0, 10, "peak learning rate of the quantized network, cosine to 0"),
    Setting("lr_2bit", 1.0, 0, 10, "the same at 2 bits, where few weights are not 0 and a smaller one leaves them"),
    Setting("bn_images", 2_000, 2, 50_000, "training images that batch norm is re-estimated on"),
)
_COMMON = (
    Setting("classes", 10, 2, 1000, "number of classes; CIFAR-10 has 10"),
    Setting("momentum", 0.9, 0, 1, "momentum of the optimizer"),
    Setting("weight_decay", 1e-5, 0, 1, "of all parameters but those of batch norm"),
    Setting("warmup", 0, 0, 1000, "epochs in which the learning rate rises from 0, linear"),
    Setting("label_smoothing", 0.1, 0, 1, "of the cross-entropy"),
)
OF_NETWORK = {setting.name: setting for setting in (*_START, *_TRAINED)}
"""Settings that each network has its own of: `small_lr`, `lite0_lr`."""
COMMON = {setting.name: setting for setting in _COMMON}
OF_START: Mapping[str, tuple[str, ...]] = {"data": ("cifar10", "imagenet"), "optimizer": ("sgd", "rmsprop")}
CHOICES: Mapping[str, tuple[str, ...]] = {
    **OF_START,
    "form": ("normalised", "printed"),
    "operands": ("quantized", "unquantized"),
    "evaluate": ("last", "every", "best"),
}


@dataclass(frozen=True)
class Figure4:
    """The target; see `repro.targets.Target`."""

    name: str = "figure4"
    title: str = "Mixed gradient scalers for weights and activations"
    kind: str = "figure"
    needs: tuple[str, ...] = ("cifar10", "efficientnet_lite0", "imagenet")
    artefact: str = "network.pt"
    values_unit: str = "% (top1, top1_bn, oscillation), steps (weight_error)"
    scales: Mapping[str, Mapping[str, Scalar]] = field(default_factory=lambda: SCALES)
    seeds: Mapping[str, int] = field(default_factory=lambda: {"smoke": 1, "cpu": 20, "gpu": 3, "paper": 20})
    together: bool = True

    def data_of(self, unit: Unit) -> Mapping[str, Mapping[str, Scalar]]:
        """What the unit reads: ImageNet or CIFAR-10, and the pretrained weights of a network that has some."""
        network = network_of(unit)
        weights: dict[str, Mapping[str, Scalar]] = {network.pretrained: {}} if network.pretrained else {}
        if unit.settings["data"] == "imagenet":
            return {"imagenet": {"classes": unit.settings["classes"]}} | weights
        return {"cifar10": {}} | weights

    def units(self, scale: str, seeds: int, settings: Mapping[str, Scalar]) -> list[Unit]:
        """Every start and every pair, one seed after the other. Raises `UsageError` for an impossible setting."""
        return [
            Unit(self.name, scale, name, seed, own, NUMERICS, requires)
            for seed in range(seeds)
            for network in trained(settings)
            if seed < _seeds_of(network, settings)
            for name, own, requires in _units_of(network, settings)
        ]

    def run(self, unit: Unit, context: Context) -> Outcome:
        """Train an FP32 start, or one pair from it."""
        from repro.figure4 import experiment

        return experiment.run(unit, context)

    def rows(self, evidence: Evidence) -> list[Row]:
        """What the released runs say by themselves, then ours beside them."""
        from repro.figure4 import claims

        return claims.rows(evidence)

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        """`figure4.csv` (claims), `figure4_points.csv` (every run), `figure4.md`, and pictures."""
        from repro.figure4 import page

        return page.render(self.title, evidence, self.rows(evidence), folder)

    def summary(self, committed: Evidence, local: Evidence) -> str:
        """The print, then committed and local runs beside it, and the claims judged on the committed ones."""
        from repro.figure4 import page

        return page.text(self.title, {"committed": committed, "this machine": local}, self.rows(committed))

    def designs(self, evidence: Evidence) -> list[Design]:
        """What `python -m repro plan` needs to know of each network that has records."""
        from repro.figure4 import claims

        return claims.designs(evidence)


def network_of(unit: Unit) -> Network:
    """The network that a unit trains."""
    return NETWORKS[unit.name.partition("_")[0]]


def _units_of(
    network: Network, settings: Mapping[str, Scalar]
) -> Iterator[tuple[str, dict[str, Scalar], tuple[str, ...]]]:
    """Name, settings and requirements of each unit of a seed."""
    own = {name: settings[f"{network.name}_{name}"] for name in OF_NETWORK}
    _check(network, own, settings)
    start = {setting.name: own[setting.name] for setting in _START}
    start |= {name: settings[name] for name in (*COMMON, *OF_START)}
    yield network.start, start, ()
    trained = {**start, **own, "operands": settings["operands"], "evaluate": settings["evaluate"]}
    at_2_bits = trained.pop("lr_2bit")
    for cell in _cells(network, settings):
        rate = {"lr": at_2_bits} if cell.bits == 2 else {}
        yield cell.unit(network.name), trained | rate | _own(cell, settings, settings["delta"]), (network.start,)
    for delta in _deltas(settings) if network.swept else ():
        cell = Cell(MAIN, *EWGS)
        yield cell.unit(network.name, delta), trained | _own(cell, settings, delta), (network.start,)


def _cells(network: Network, settings: Mapping[str, Scalar]) -> list[Cell]:
    if settings["pairs"] == "published":
        return [cell for bits in network.bits(settings) for cell in printed() if cell.bits == bits]
    return [Cell(MAIN, *pair) for pair in _pairs(str(settings["pairs"]))]


def _own(cell: Cell, settings: Mapping[str, Scalar], delta: Scalar) -> dict[str, Scalar]:
    """The cell and its scalers' constants as far as they matter to it: STE has none, alpha is two scalers'."""
    if not isinstance(settings["alpha"], int | float | None):
        raise UsageError(f"alpha={settings['alpha']}: give a number, or none for each scaler's own")
    found: dict[str, Scalar] = dict(cell._asdict())
    if cell.scaled:
        found |= {"delta": delta, "form": settings["form"]}
    if settings["alpha"] is not None and any(Scaler(name).alpha for name in cell.scaled):
        found["alpha"] = settings["alpha"]
    try:
        for name in cell.scaled:
            scaler(name, found)
    except ValueError as error:
        raise UsageError(f"scaler {name}: {error}") from error
    return found


def scaler(name: str, constants: Mapping[str, Scalar]) -> Scaler:
    """The scaler of a unit by its settings. Raises `ValueError` for constants that it cannot have.

    >>> scaler("ewgs", {"delta": 0.05, "alpha": 1.9, "form": "normalised"})
    Scaler(name='ewgs', delta=0.05, alpha=None, form='normalised')
    """
    plain = Scaler(name)
    own = {key: constants[key] for key in ("delta", "form") if key in constants}
    if plain.alpha is not None and "alpha" in constants:
        own["alpha"] = constants["alpha"]
    return Scaler(name, **own)  # type: ignore[arg-type]


# --- settings ------------------------------------------------------------------------------------------------------


def _scale(protocols: Mapping[str, Mapping[str, Scalar]], /, **changed: Scalar) -> dict[str, Scalar]:
    defaults: dict[str, Scalar] = {
        "networks": "small,lite0",
        "pairs": "published",
        "lite0_seeds": 3,
        "delta": Scaler("ste").delta,
        "deltas": "5e-4,5e-2,5e-1",
        "small_bits": "3,2,4",
        "lite0_bits": "3,4",  # at 2 bits it stays at chance within an epoch
        "alpha": None,
        "form": "normalised",
        "operands": "quantized",
        "evaluate": "last",
        "data": "cifar10",
        "optimizer": "sgd",
    }
    defaults |= {name: setting.default for name, setting in COMMON.items()}
    for network in NETWORKS:
        own = {name: setting.default for name, setting in OF_NETWORK.items()} | dict(protocols[network])
        defaults |= {f"{network}_{name}": value for name, value in own.items()}
    return defaults | changed


SCALES: Mapping[str, Mapping[str, Scalar]] = {
    "smoke": _scale(
        {
            "small": {"fp32_images": 1_024, "fp32_epochs": 1, "train_images": 384, "epochs": 1, "test_images": 250,
                      "bn_images": 128},
            "lite0": {"batch": 16, "fp32_images": 128, "fp32_epochs": 1, "fp32_lr": 0.02, "train_images": 32,
                      "epochs": 1, "test_images": 32, "bn_images": 32},
        },
        lite0_seeds=1,
    ),
    "cpu": _scale(
        {
            "small": {},
            "lite0": {"batch": 64, "fp32_images": 20_000, "fp32_epochs": 1, "fp32_lr": 0.02, "epochs": 1,
                      "train_images": 7_680, "lr": 0.03, "test_images": 5_000},
        },
    ),
    "gpu": _scale(
        {
            "small": {},
            "lite0": {"size": 128, "fp32_epochs": 2, "fp32_lr": 0.02, "train_images": 50_000, "epochs": 2},
        },
        networks="lite0",
        evaluate="every",
    ),
    "paper": _scale(
        {
            "small": {},
            "lite0": {"size": 224, "batch": 1024, "fp32_images": IMAGENET_IMAGES, "fp32_epochs": 50, "fp32_lr": 5e-3,
                      "train_images": IMAGENET_IMAGES, "epochs": 50, "lr": 5e-3, "lr_2bit": 5e-3,
                      "test_images": 50_000, "bn_images": 50_000},
        },
        networks="lite0",
        lite0_bits="3,2,4",
        lite0_seeds=20,
        deltas=None,
        data="imagenet",
        classes=1000,
        optimizer="rmsprop",
        warmup=2,
        evaluate="best",
    ),
}  # fmt: skip


def trained(settings: Mapping[str, Scalar]) -> list[Network]:
    """The networks that settings name. Raises `UsageError` for one there is not."""
    names = [name.strip() for name in str(settings["networks"]).split(",")]
    for name in names:
        if name not in NETWORKS:
            raise UsageError(f"networks={settings['networks']}: {suggestion(name, NETWORKS)}")
    return [NETWORKS[name] for name in dict.fromkeys(names)]


def _seeds_of(network: Network, settings: Mapping[str, Scalar]) -> float:
    seeds = settings.get(f"{network.name}_seeds", float("inf"))
    if not isinstance(seeds, int | float) or seeds < 1:
        raise UsageError(f"{network.name}_seeds={seeds}: give a number of seeds from 1 on")
    return seeds


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for pair in text.split(","):
        weights, _, activations = pair.strip().partition("/")
        for name in (weights, activations):
            if name not in scaler_names():
                raise UsageError(
                    f"pairs={text}: give published, or weights/activations; {suggestion(name, scaler_names())}"
                )
        pairs.append((weights, activations))
    return list(dict.fromkeys(pairs))


def _deltas(settings: Mapping[str, Scalar]) -> list[float]:
    try:
        deltas = [float(text) for text in str(settings["deltas"]).split(",")] if settings["deltas"] else []
    except ValueError:
        raise UsageError(f"deltas={settings['deltas']}: give numbers, like 5e-4,5e-2, or none") from None
    names = {Cell(MAIN, *EWGS).unit("", delta): delta for delta in deltas}
    if len(names) < len(set(deltas)):
        raise UsageError(f"deltas={settings['deltas']}: give numbers that differ in their first digit or magnitude")
    return [delta for delta in names.values() if delta != settings["delta"]]


def _check(network: Network, own: Mapping[str, Scalar], settings: Mapping[str, Scalar]) -> None:
    for name, value in own.items():
        setting = OF_NETWORK[name]
        Setting(f"{network.name}_{name}", setting.default, setting.low, setting.high, setting.meaning).check(value)
    for name, setting in COMMON.items():
        setting.check(settings[name])
    for name, known in CHOICES.items():
        if settings[name] not in known:
            raise UsageError(f"{name}={settings[name]}: {suggestion(str(settings[name]), known)}")
    if settings["data"] == "cifar10":
        _check_cifar10(network, own, settings)
    for name in ("fp32_images", "train_images"):
        if own["batch"] > own[name]:  # type: ignore[operator]
            raise UsageError(f"{network.name}_batch={own['batch']}: give at most {name}={own[name]}")


def _check_cifar10(network: Network, own: Mapping[str, Scalar], settings: Mapping[str, Scalar]) -> None:
    """What CIFAR-10 has too few of."""
    if settings["classes"] != 10:
        raise UsageError(f"classes={settings['classes']}: CIFAR-10 has 10")
    for name, most in (("fp32_images", 50_000), ("train_images", 50_000), ("test_images", 10_000)):
        if own[name] > most:  # type: ignore[operator]
            raise UsageError(f"{network.name}_{name}={own[name]}: CIFAR-10 has {most}")


TARGET = Figure4()
