"""How a float network becomes a quantized one: layers are replaced under a rule, parameters stay where they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from repro.networks.depthwise import QuickConv2d


class QuantizedConv2d(QuickConv2d):
    """A convolution whose weight passes through a quantizer; it shares the parameters of the float one it replaces."""

    def __init__(self, conv: nn.Conv2d, quantizer: nn.Module) -> None:
        super().__init__(conv)
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.quantizer(self.weight), self.bias)


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight passes through a quantizer; it shares the parameters of the float one it replaces."""

    def __init__(self, linear: nn.Linear, quantizer: nn.Module) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.quantizer(self.weight), self.bias)


class AtEightBits(nn.Module):
    """A quantizer that stays at 8 bits while the network's bit-width is another; full precision passes.

    >>> from repro.quantizers import DoReFaWeight
    >>> fixed = AtEightBits(DoReFaWeight())
    >>> set_bits(fixed, 2)
    >>> fixed.quantizer.bits
    8
    """

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        set_bits(quantizer, 8)
        self.quantizer = quantizer
        self.bits: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.bits is None else self.quantizer(x)


class Signed(nn.Identity):
    """The place of a quantizer for an activation of both signs."""


@dataclass(frozen=True)
class LayerRule:
    """Which layers become quantized, and by what.

    Every convolution gets its own `weight()`, every ReLU is replaced by its own `activation()`, and every `Signed` by
    its own `signed()`, but for the modules whose dotted name is in `keep`, which stay in full precision. Every batch
    norm becomes `norm(batch norm)`. The defaults of the last two change nothing.
    """

    weight: Callable[[], nn.Module]
    activation: Callable[[], nn.Module]
    keep: frozenset[str] = frozenset()
    norm: Callable[[nn.BatchNorm2d], nn.Module] = lambda norm: norm
    signed: Callable[[], nn.Module] = Signed


def quantize(network: nn.Module, rule: LayerRule) -> nn.Module:
    """Replace layers of `network` in place under `rule`, and return it.

    Raises `ValueError` when `rule.keep` names a module that the network does not have.

    >>> from repro.quantizers import PACT, DoReFaWeight
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    >>> net = quantize(net, LayerRule(DoReFaWeight, PACT, keep=frozenset({"0"})))
    >>> [type(module).__name__ for module in net]
    ['Conv2d', 'PACT', 'QuantizedConv2d', 'PACT']
    """
    named = dict(network.named_modules())
    if unknown := sorted(rule.keep - named.keys()):
        raise ValueError(f"the rule keeps {unknown[0]!r}, which is no module of {type(network).__name__}")
    for name, module in named.items():
        if name in rule.keep:
            continue
        if isinstance(module, nn.Conv2d):
            network.set_submodule(name, QuantizedConv2d(module, rule.weight()))
        elif isinstance(module, nn.ReLU):
            network.set_submodule(name, rule.activation())
        elif isinstance(module, Signed):
            network.set_submodule(name, rule.signed())
        elif isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, rule.norm(module))
    return network


def set_bits(network: nn.Module, bits: int | None) -> None:
    """Switch every quantizer and batch norm of `network` to `bits`, in place; None is full precision.

    A switchable module knows its own bit-widths alone: for another, None included, its next forward pass raises
    `KeyError`. Whatever has `bits` is switched and decides itself what is inside it. Attributes are read and written
    where torch keeps them: `children()` and its checks on setting take milliseconds in a deep network.
    """
    state = vars(network)
    if "bits" in state:
        state.update({name: bits for name in ("bits", "previous") if name in state})
        return
    for child in state["_modules"].values():
        if child is not None:
            set_bits(child, bits)
