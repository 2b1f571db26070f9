"""The curves of `tanh` and `invtanh` as quotients of polynomials, fitted once for each scaler.

A curve f(alpha * e), |e| <= 0.5, is e times a smooth function of e**2. Its quotient is the one of least relative error
among those of the lowest degree whose error does not show: in the multiplier 1 + factor * f at most half a unit in
the last place of float32 numbers under 1, or in f itself two unit roundoffs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

DEGREES = range(2, 7)
"""Of both polynomials."""
HALF_ULP = 2.0**-25
"""Of float32 numbers in [0.5, 1)."""
SMALLEST_RELATIVE = 2.0**-23
"""Two unit roundoffs: no approximation is asked to be better."""
POINTS = 400
ITERATIONS = 20

_FUNCTIONS: dict[str, tuple[Callable, float, float]] = {
    "tanh": (np.tanh, 0.0, 4.0),
    "invtanh": (np.arctanh, 1.0, -4.0),
}
"""Function, offset and slope. The variable is t = offset + slope * e**2, from 0 to 1 on the way from the end where the
function has its singularities nearby: so all coefficients are positive, and no sum of them cancels."""


class Quotient(NamedTuple):
    """f(alpha * e) = e * P(t) / Q(t), t = offset + slope * e**2."""

    offset: float
    slope: float
    p: tuple[float, ...]
    q: tuple[float, ...]

    @property
    def degree(self) -> int:
        return len(self.p) - 1

    def constants(self, factor: float, length: int) -> list[float]:
        """As the loops take them: offset, slope, then `length` coefficients of factor * P, and of Q."""
        p, q = ([*c, *[0.0] * (length - len(c))] for c in ([factor * c for c in self.p], self.q))
        return [self.offset, self.slope, *p, *q]


@lru_cache(maxsize=256)
def quotient(name: str, alpha: float, factor: float) -> Quotient | None:
    """The quotient for `1 + factor * f(alpha * e)`; None where no degree is enough: close to a singularity.

    >>> [quotient(name, alpha, 5e-3).degree for name, alpha in (("tanh", 4.0), ("invtanh", 1.9))]
    [2, 3]
    """
    function, offset, slope = _FUNCTIONS[name]
    t = 0.5 - 0.5 * np.cos(np.pi * (np.arange(POINTS) + 0.5) / POINTS)
    e = np.sqrt((t - offset) / slope)
    y = function(alpha * e)
    allowed = max(SMALLEST_RELATIVE, HALF_ULP / (factor * float(y.max()) or math.inf))
    for degree in DEGREES:
        p, q = _fit(t, y / e, degree)
        if np.max(np.abs(_values(p, t) / _values(q, t) * e / y - 1)) <= allowed:
            return Quotient(offset, slope, tuple(p.tolist()), tuple(q.tolist()))
    return None


def _fit(t: np.ndarray, y: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of P and Q, Q(0) = 1, rounded to float32, of nearly the least relative error at the points.

    Linearised least squares, in which Q of the last round divides the residuals (Sanathanan and Koerner 1963), and
    points of large errors gain weight (Lawson 1961).
    """
    powers = np.vander(t, degree + 1, increasing=True)
    weights, divisor = np.ones_like(t), np.ones_like(t)
    best, error = (powers[0], powers[0]), math.inf
    for _ in range(ITERATIONS):
        scale = np.sqrt(weights) / (divisor * y)
        matrix = np.hstack([powers, -y[:, None] * powers[:, 1:]]) * scale[:, None]
        found = np.linalg.lstsq(matrix, y * scale)[0]
        p, q = (np.float32(c).astype(float) for c in (found[: degree + 1], np.r_[1, found[degree + 1 :]]))
        divisor = np.abs(_values(q, t))
        errors = np.abs(_values(p, t) / _values(q, t) / y - 1)
        if errors.max() < error:
            best, error = (p, q), errors.max()
        weights *= errors + 1e-3 * errors.max()
        weights /= weights.sum()
    return best


def _values(coefficients: Iterable[float], t: np.ndarray) -> np.ndarray:
    return np.polynomial.polynomial.polyval(t, np.asarray(coefficients))
