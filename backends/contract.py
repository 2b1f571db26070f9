"""The promise of every backend, in types: gradient scalers, the four gradients, and the checking of parameters.

A backend is a module with the four functions of `Backend`. This module holds what they promise and nothing of how
they compute it: NumPy at most, no torch.

The contract's clauses, as code and tests cite them; g is the gradient of y, s the scaler's multiplier of g and e:

    c = clip(x, lower, upper)    v = c / step    codes = rint(v)    y = codes * step    e = v - rint(v)

Q1  The quotient is correctly rounded, but for the last place of one below 2**-24, whose code is 0; a bare product with
    1 / step is not.
Q2  rint rounds half to even.
Q3  Clipping comes first, in the unit of x, then the division, then rounding; a bound need not be a multiple of step.
Q4  Codes and values in float32 are the same on every backend, bit for bit.
Q5  Parameters are cast to the compute dtype first: float64 for float64, else float32, in which narrower x are computed
    and from which they are cast back once. Zeros of either sign are equal, and so is any NaN to any other.
Q6  NaN stays NaN, with the code -2**31; infinities go to the bounds; max(-lower, upper) / step is at most 2**24. Other
    parameters raise `ValueError`, integer x `TypeError`; of an empty x the result is empty.
Q7  Nothing waits for a device: numbers are checked on every call, tensors on a device where they are set.
G1  dx = g * s where lower <= x <= upper, both included, whatever a framework's clamp does there; else 0.
G2  dstep, dlower and dupper by the chain rule; those of LSQ and PACT follow from these.
G3  Sums are pairwise in float32, or better, and the same on every run.
G4  Of the large tensors x alone is kept for the backward.
G5  LSQ's gradient factor is a function of its own.
S1  Scalers as printed and as released ("normalised"); a result says which. S1b: as drawn in Figure 2.
S2  delta < 0, alpha <= 0, and alpha >= 2 of `invtanh` raise.
S3  The delta of the original EWGS is 2**bits - 1 times ours.
S4  The noise of the two controls is drawn outside the backends.
S5  A built-in scaler is written once in each backend; a user's is one function, run by all but `fused`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np

Form = Literal["printed", "normalised"]
ScalerFunction = Callable[[Any, Any, Any, float, float | None], Any]
"""A user's scaler `f(xp, grad, error, delta, alpha)`: `xp` is `numpy` or `torch`, the result is like `grad`."""

SCALERS = ("ste", "pbgs", "ewgs", "acos", "tanh", "invtanh")
"""The scalers of the paper, written once in each backend (S5)."""
NOISE_CONTROLS = ("uniform_noise", "gaussian_noise")
"""The controls that put noise in the place of the rounding error (S4)."""
BUILT_IN = frozenset(SCALERS + NOISE_CONTROLS)
ENTRY_POINTS = "backends.scalers"
LARGEST_CODE = 2**24
"""Largest `max(-lower, upper) / step`: the integers up to here are exact in float32 (Q6)."""
Needs = tuple[bool, bool, bool]
"""Whether the gradients of step, lower and upper are asked for."""
NAN_CODE = -(2**31)
"""The code of NaN: the int32 minimum (Q6)."""

_DEFAULT_ALPHA = {"tanh": 4.0, "invtanh": 1.9}


class ScalerError(ValueError):
    """A scaler of an installed package that cannot serve: one line that names the package. A command ends with 2."""

    exit_code = 2


class UnknownNameError(ValueError):
    """No backend or scaler of this name. A command ends with 2."""

    exit_code = 2


class BackendUnavailableError(RuntimeError):
    """The backend asked for is known, but cannot serve here. A command ends with 3."""

    exit_code = 3


class Gradients(NamedTuple):
    """Gradients of the loss with respect to `x` (like x) and the three parameters (0-d or 1-D as the parameter is)."""

    x: Any
    step: Any
    lower: Any
    upper: Any


class Backend(Protocol):
    """What a backend module offers. Arrays are the backend's own: NumPy for `reference`, torch for the others.

    `step`, `lower`, `upper` are numbers or 0-d arrays (one grid for all of x), or 1-D of length `x.shape[axis]`
    (one grid per channel); the three may be mixed.
    """

    def codes(self, x: Any, step: Any, lower: Any, upper: Any, *, axis: int | None = None) -> Any:
        """`rint(clip(x, lower, upper) / step)`: int32, shape of x; NaN has the code `NAN_CODE`."""

    def forward(self, x: Any, step: Any, lower: Any, upper: Any, *, axis: int | None = None, out: Any = None) -> Any:
        """`codes * step`, shape and dtype of x; written to `out` where given. NaN stays NaN."""

    def backward(
        self,
        grad: Any,
        x: Any,
        step: Any,
        lower: Any,
        upper: Any,
        *,
        scaler: Scaler,
        axis: int | None = None,
        noise: Any = None,
        out: Any = None,
        needs: Needs = (True, True, True),
    ) -> Gradients:
        """The four gradients, from `grad`, the gradient of the loss with respect to the values; `out` receives dx.

        Those of step, lower and upper that are not needed are None."""

    def multiplier(self, scaler: Scaler, grad: Any, error: Any, noise: Any = None) -> Any:
        """The gradient-scaling multiplier `s`, like grad; `error` is the rounding error in grid units."""


@dataclass(frozen=True)
class Scaler:
    """A gradient scaler with its constants: multiplies the incoming gradient g by s, given the rounding error e.

    With `e = v - rint(v)` in grid units, |e| <= 0.5, and sign(0) = 0:

    | name          | s, form "printed"                         | s, form "normalised"                        | alpha |
    | ------------- | ----------------------------------------- | ------------------------------------------- | ----- |
    | ste           | 1                                         | the same                                    |       |
    | pbgs          | 1 + delta * abs(e)                        | the same                                    |       |
    | ewgs          | 1 + delta * sign(g) * e                   | the same                                    |       |
    | acos          | 1 + delta * sin(pi * e)                   | 1 + delta * 0.5 * sin(pi * e)               |       |
    | tanh          | 1 + delta * sign(g) * tanh(alpha * e)     | 1 + delta * 0.5 * sign(g) * tanh(alpha * e) | 4     |
    | invtanh       | 1 + delta * sign(g) * arctanh(alpha * e)  | the same, times 0.5 / arctanh(alpha / 2)    | 1.9   |
    | uniform_noise | 1 + delta * noise, noise ~ U(-0.5, 0.5)   | the same                                    |       |
    | gaussian_noise| 1 + delta * noise, noise ~ N(0, 1)        | the same                                    |       |

    "printed" is the paper's text, "normalised" its authors' released code, where every curve but that of `tanh`
    (0.482 delta) ends at delta / 2 at the decision threshold |e| = 0.5. With equal delta the printed `invtanh` is
    3.66 times as strong as the normalised one, so a result has to say which form it used (S1). What the paper's
    Figure 2 shows is a third set of curves, offered for that figure alone: `backends.reference.drawn_curve` (S1b).
    A registered scaler (`register_scaler`) has one formula, which both forms name.

    `delta = 5e-3` is the authors' value for all scalers; `alpha` defaults to the scaler's own and stays None for
    a scaler without one. Source: contract S1-S5.

    Raises `UnknownNameError` (a `ValueError`) for an unknown name, `ValueError` for an unknown form, for a delta that
    is negative or not finite, for an alpha that is not a positive finite number or that the scaler does not have, and
    for an alpha of 2 or more with `invtanh`, whose arctanh would be infinite at a tie (S2).

    >>> Scaler("tanh")
    Scaler(name='tanh', delta=0.005, alpha=4.0, form='printed')
    >>> from backends import reference
    >>> reference.multiplier(Scaler("ewgs"), [1.0, 1.0, -1.0], [0.5, -0.2, 0.5])
    array([1.0025, 0.999 , 0.9975])
    """

    name: str
    delta: float = 5e-3
    alpha: float | None = None
    form: Form = "printed"

    def __post_init__(self) -> None:
        default = _default_alpha(self.name)
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got form={self.form!r}")
        if not 0 <= self.delta < math.inf:
            raise ValueError(f"delta must be finite and not negative, got delta={self.delta}")
        if self.alpha is None:
            object.__setattr__(self, "alpha", default)
        elif default is None:
            raise ValueError(f"scaler {self.name!r} has no alpha, got alpha={self.alpha}")
        elif not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive and finite, got alpha={self.alpha}")
        elif self.name == "invtanh" and np.float32(self.alpha) >= 2:
            raise ValueError(f"alpha of invtanh must be below 2 (in float32 too), got alpha={self.alpha}")

    @property
    def needs_noise(self) -> bool:
        """Whether `backward` and `multiplier` need the argument `noise` (S4)."""
        return self.name in NOISE_CONTROLS


class _Registered(NamedTuple):
    function: ScalerFunction
    alpha: float | None


_registered: dict[str, _Registered] = {}


def register_scaler(name: str, *, alpha: float | None = None) -> Callable[[ScalerFunction], ScalerFunction]:
    """Decorator that makes `f(xp, grad, error, delta, alpha)` the scaler `name`; `alpha` is its default constant (S5).

    The function is array-generic: `xp` is `numpy` or `torch`, and it returns the multiplier, like `grad`. A package
    offers scalers to all who install it by an entry point of the same name in the group `backends.scalers`.

    Raises `ValueError` if the name is taken.

    >>> @register_scaler("cubic")
    ... def cubic(xp, grad, error, delta, alpha):
    ...     return 1 + delta * xp.sign(grad) * 4 * error**3
    >>> from backends import reference
    >>> reference.multiplier(Scaler("cubic"), [1.0, -1.0], [0.5, 0.5])
    array([1.0025, 0.9975])
    >>> unregister_scaler("cubic")
    """

    def register(function: ScalerFunction) -> ScalerFunction:
        if name in BUILT_IN or name in _registered:
            raise ValueError(f"a scaler named {name!r} exists already")
        _registered[name] = _Registered(function, alpha)
        return function

    return register


def unregister_scaler(name: str) -> None:
    """Forget a registered scaler; raises `KeyError` if there is none of this name."""
    del _registered[name]


def scaler_names() -> tuple[str, ...]:
    """All names that `Scaler` accepts: built-in ones, then registered ones and those of installed packages."""
    installed = {point.name for point in entry_points(group=ENTRY_POINTS)} - BUILT_IN
    return SCALERS + NOISE_CONTROLS + tuple(sorted(installed | set(_registered)))


def registered_function(name: str) -> ScalerFunction | None:
    """The function of a registered scaler; None for a built-in one. Raises `UnknownNameError`."""
    return None if name in BUILT_IN else _lookup(name).function


def _default_alpha(name: str) -> float | None:
    return _DEFAULT_ALPHA.get(name) if name in BUILT_IN else _lookup(name).alpha


def _lookup(name: str) -> _Registered:
    """The scaler registered under this name, if need be from the entry point that offers it.

    Importing an entry point's module may register the scaler by the decorator; a plain function is registered here.
    Raises `ScalerError` for one that cannot be loaded, or that NumPy cannot evaluate on two numbers.
    """
    if name not in _registered:
        for point in entry_points(group=ENTRY_POINTS, name=name):
            try:
                function = point.load()
                if name not in _registered:
                    register_scaler(name)(function)
                _try(_registered[name])
            except (Exception, SystemExit) as error:
                _registered.pop(name, None)
                package = point.dist.name if point.dist else point.value
                line = f"{package}: scaler {name!r} under {ENTRY_POINTS} cannot serve: {error}"
                raise ScalerError(line) from error
    if name not in _registered:
        raise UnknownNameError(f"unknown scaler {name!r}: {nearest(name, scaler_names())}")
    return _registered[name]


def _try(scaler: _Registered) -> None:
    s = scaler.function(np, np.array([1.0, -1.0]), np.array([0.25, -0.25]), 5e-3, scaler.alpha)
    if np.shape(s) not in ((), (2,)) or not np.isfinite(s).all():
        raise ValueError(f"of two numbers it makes {s!r}")


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error message about an unknown name: the known ones and, where one is near, a suggestion."""
    close = get_close_matches(name, known, n=1)
    return f"known are {', '.join(known)}" + (f"; did you mean {close[0]!r}?" if close else "")


def check_noise(scaler: Scaler, noise: Any, shape: Sequence[int]) -> None:
    """Raise `ValueError` unless there is noise exactly where the scaler needs it, and in the shape of grad (S4)."""
    if scaler.needs_noise and noise is None:
        raise ValueError(f"scaler {scaler.name!r} needs noise, got noise=None")
    if not scaler.needs_noise and noise is not None:
        raise ValueError(f"scaler {scaler.name!r} takes no noise")
    if noise is not None and tuple(noise.shape) != tuple(shape):
        raise ValueError(f"noise has shape {tuple(noise.shape)}, expected that of grad, {tuple(shape)}")


def check_like(name: str, array: Any, x: Any) -> None:
    """Raise `ValueError` unless `array`, which is what `name` says, has the shape of x (and `out` its dtype)."""
    if tuple(array.shape) != tuple(x.shape):
        raise ValueError(f"{name} has shape {tuple(array.shape)}, expected {tuple(x.shape)}")
    if name == "out" and array.dtype != x.dtype:
        raise ValueError(f"out has dtype {array.dtype}, expected that of x, {x.dtype}")


def check_axis(axis: int | None, shape: Sequence[int], **parameters: Sequence[int]) -> int | None:
    """The channel axis counted from 0, given the shapes of x and of the parameters (by name).

    Raises `ValueError` if the axis does not exist or a parameter is neither 0-d nor one number per channel.

    >>> check_axis(-1, (2, 3), step=(3,), lower=(), upper=())
    1
    """
    if axis is not None and not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis={axis} does not exist: x has shape {tuple(shape)}")
    for name, own in parameters.items():
        if len(own) and axis is None:
            raise ValueError(f"{name} has shape {tuple(own)} but no axis is given: per tensor it must be 0-d")
        if len(own) and tuple(own) != (shape[axis],):  # type: ignore[index]
            raise ValueError(f"{name} has shape {tuple(own)}, expected () or ({shape[axis]},)")  # type: ignore[index]
    return axis if axis is None else axis % len(shape)


def check_parameters(step: Any = None, lower: Any = None, upper: Any = None, *, dtype: Any = np.float32) -> None:
    """Raise `ValueError` unless `step > 0`, `lower <= 0 <= upper`, and `max(-lower, upper) / step <= 2**24` (Q6).

    All must be finite once cast to the compute dtype (Q5). Arguments are numbers, or arrays or tensors (any device)
    that are 0-d or have one number per channel; those left out are not checked. Reads the values, so it waits for a
    GPU: call it where parameters are set or updated, not at every step (Q7).

    >>> check_parameters(step=0.1, lower=-0.8, upper=0.7)
    >>> check_parameters(step=[0.1, 0.0])
    Traceback (most recent call last):
    ValueError: step must be positive and finite in float32, got step=0.0 in channel 1
    """
    given = {"step": step, "lower": lower, "upper": upper}
    columns = {name: _numbers(value) for name, value in given.items() if value is not None}
    counts = {len(column) for column in columns.values()} - {1}
    if len(counts) > 1:
        raise ValueError(f"parameters have different numbers of channels: {sorted(counts)}")
    for channel in range(max(counts, default=1)):
        problem = _problem({name: column[channel % len(column)] for name, column in columns.items()}, np.dtype(dtype))
        if problem:
            raise ValueError(problem + (f" in channel {channel}" if counts else ""))


def _numbers(value: Any) -> list[float]:
    """The values of a number, array or tensor, in float64, as a list."""
    if hasattr(value, "detach"):  # a torch tensor: NumPy reads neither other devices nor bfloat16
        value = value.detach().cpu().double()
    return np.asarray(value, dtype=np.float64).ravel().tolist()


def _problem(exact: dict[str, float], dtype: np.dtype) -> str | None:
    """What is wrong with the parameters of one grid, or None."""
    with np.errstate(over="ignore"):
        cast = {name: float(dtype.type(value)) for name, value in exact.items()}
    for name, value in cast.items():
        if name == "step" and not 0 < value < math.inf:
            return f"step must be positive and finite in {dtype}, got step={exact[name]}"
        if name == "lower" and not -math.inf < value <= 0:
            return f"lower must be finite and not above 0 in {dtype}, got lower={exact[name]}"
        if name == "upper" and not 0 <= value < math.inf:
            return f"upper must be finite and not below 0 in {dtype}, got upper={exact[name]}"
        if "step" in cast and name != "step" and abs(value) / cast["step"] > LARGEST_CODE:
            return f"abs({name}) / step must not exceed 2**24, got {name}={exact[name]} and step={exact['step']}"
    return None


def ewgs_delta(unit_grid_delta: float, bits: int) -> float:
    """`delta / (2**bits - 1)`: our delta for a delta of the original EWGS (S3).

    EWGS measures the rounding error on a grid over [0, 1], whose step is `1 / (2**bits - 1)`; here it is measured in
    steps. The same gradient then needs a delta smaller by that factor.

    >>> ewgs_delta(1.5, bits=2)
    0.5
    """
    return unit_grid_delta / (2**bits - 1)


def lsq_gradient_factor(count: int, q_max: int) -> float:
    """`1 / sqrt(count * q_max)`: what LSQ multiplies the gradient of a step by that `count` elements share (G5).

    Nothing applies it unasked. `q_max` is the largest code.

    >>> lsq_gradient_factor(count=100, q_max=1)
    0.1
    """
    return 1 / math.sqrt(count * q_max)


def lsq_step_gradient(gradients: Gradients, q_min: int, q_max: int) -> Any:
    """`dstep + q_min * dlower + q_max * dupper`: gradient of a step that carries the range along (G2).

    LSQ learns the step alone: `lower = q_min * step` and `upper = q_max * step` move with it.

    >>> lsq_step_gradient(Gradients(x=None, step=0.5, lower=1.0, upper=-2.0), q_min=-2, q_max=1)
    -3.5
    """
    return gradients.step + q_min * gradients.lower + q_max * gradients.upper


def pact_alpha_gradient(gradients: Gradients) -> Any:
    """`dupper`: gradient of PACT's clip level alpha, the sum of g over the clipped elements (G2).

    `lower = 0`, `upper = alpha`, and the step `alpha / (2**bits - 1)` is held constant, as PACT and paper B have it.

    >>> pact_alpha_gradient(Gradients(x=None, step=0.6, lower=0.0, upper=2.0))
    2.0
    """
    return gradients.upper


def pact_alpha_gradient_full_chain(gradients: Gradients, bits: int) -> Any:
    """`dupper + dstep / (2**bits - 1)`: gradient of PACT's alpha when the step moves with it (G2).

    Another gradient than PACT's own (`pact_alpha_gradient`), for those who ask for it by name.

    >>> pact_alpha_gradient_full_chain(Gradients(x=None, step=0.6, lower=0.0, upper=2.0), bits=2)
    2.2
    """
    return gradients.upper + gradients.step / (2**bits - 1)
