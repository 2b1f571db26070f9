"""The one table of tolerances: each entry with its reason. Codes and values have none: they compare exactly.

Names ending in 64 are the float64 oracle's. Every bound is first order in `U`, times `SECOND_ORDER` for the rest.
"""

from __future__ import annotations

import numpy as np

from backends import Scaler

U = 2.0**-24
"""Unit roundoff of float32: a correctly rounded operation is off by at most U times its result."""

SECOND_ORDER = 1.01
"""Products of two roundings, which the first-order bounds leave out."""

CURVE = 25 * U
"""Relative error of delta * f(alpha * e) in float32. Roundings of delta, of the constant factor and of two products:
4 U. Of alpha and of alpha * e, times the condition number of f at |e| = 0.5 (largest for invtanh at alpha = 1.9,
0.95 / (1 - 0.95**2) / arctanh(0.95) = 5.4): 11 U. The function itself, by the vendors' error tables at most 4 ulp,
an ulp being 2 U: 8 U."""

APPROXIMATED = U / 2
"""What a backend may leave out of a multiplier by an approximation of its curve: half a unit in the last place of the
numbers under 1, which is the rounding of the multiplier itself (`backends.fused.curves`)."""

SLOPES = {"ste": 0.0, "pbgs": 1.0, "ewgs": 1.0, "acos": np.pi, "tanh": 4.0, "invtanh": 1.9 / (1 - 0.95**2)}
"""Largest |df/de| over |e| <= 0.5 at the default alpha: what an error in e does to the curve."""

ADDITIONS = 256
"""Additions that one term may go through on its way into a sum over at most 2**24 terms. Pairwise needs 24 and the
length of its unrolled base; torch's cascade in four levels needs four times 2**6. A running sum needs them all (G3)."""

DIFFERENCE_QUOTIENT = 1e-7
"""Relative, for central differences in float64 with an increment of 1e-6: the function is piecewise of second degree
at most, so what is left is cancellation, 2**-53 / 1e-6, times the sum's size."""

CHAIN_RULE_64 = 1e-14
"""Times sum(|g * v|): the same sum of about 1000 terms from two orders of evaluation in float64. That is 90 unit
roundoffs of the largest sum that can occur on the way, where pairwise addition makes some 10 and each term 4."""

FORMULA_64 = 1e-15
"""Relative, for one value by two formulas in float64: four operations and a function, some 9 unit roundoffs."""


LOSS = 4 * U
"""Relative, of one loss by two orders of additions: its own rounding, and that of the mean over a batch."""


def multiplier(scaler: Scaler, s64: np.ndarray, v64: np.ndarray | float = 0.0) -> np.ndarray:
    """|s - s64|: one addition to 1, the curve's own error, its approximation, and what the rounding of v (U * |v|) does
    through e."""
    through_error = scaler.delta * SLOPES[scaler.name] * U * np.abs(v64)
    approximated = APPROXIMATED if scaler.alpha else 0.0
    return SECOND_ORDER * (U * np.abs(s64) + CURVE * np.abs(s64 - 1) + approximated + through_error)


def dx(g: np.ndarray, s64: np.ndarray, s_bound: np.ndarray) -> np.ndarray:
    """|dx - dx64|: the multiplier's error and one product."""
    return SECOND_ORDER * np.abs(g) * (s_bound + U * np.abs(s64))


def step_terms(g: np.ndarray, s64: np.ndarray, v64: np.ndarray, s_bound: np.ndarray) -> np.ndarray:
    """|t - t64| for t = g * (rint(v) - s * v): the errors of s, of v and of s * v, one difference, one product."""
    term = np.abs(np.rint(v64) - s64 * v64)
    return SECOND_ORDER * np.abs(g) * (np.abs(v64) * (s_bound + 2 * U * np.abs(s64)) + 2 * U * term)


def sums(terms64: np.ndarray, term_bounds: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """|sum - sum64|: the terms' own errors, and ADDITIONS roundings of partial sums no larger than sum(|t|)."""
    return term_bounds.sum(axes) + SECOND_ORDER * ADDITIONS * U * np.abs(terms64).sum(axes)


def inside(x: np.ndarray, step: float) -> np.ndarray:
    """|x - q(x)| within the range: half a step, and the roundings of v and of codes * step, each U * |x|."""
    return step / 2 * (1 + SECOND_ORDER * 2 * U) + SECOND_ORDER * 2 * U * np.abs(x)
