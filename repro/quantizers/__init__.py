"""Quantizers as torch modules over `backends.autograd`: each has `bits`, switched in place."""

from repro.quantizers.dorefa import DoReFaWeight
from repro.quantizers.pact import PACT, SwitchablePACT

__all__ = ["PACT", "DoReFaWeight", "SwitchablePACT"]
