"""The fused backend on CUDA, in Triton: one pass over memory forward, one backward, and a sum of partial sums.

Elements are walked in the order in which they lie in memory. A layout without gaps or overlaps (contiguous, transposed,
channels-last) is therefore read and written in place; x of another layout is copied first, and so is any `grad`,
`noise` or `out` that is not laid out like x. In memory order x is a block (outer, channels, inner), which the kernels
see as a matrix cut into tiles of `TILE` elements. A whole row, or a whole column, of it belongs to one channel:

    (outer * channels, inner)      where inner >= outer
    (outer, channels * inner)      elsewhere

One program does one tile. Backward it leaves three sums for each row or column of its tile, which torch then adds up:
no atomics, the same result at every run (G3). A tile that lies wholly inside the matrix is loaded and stored without
a mask: in vectors of 16 bytes where a row is the whole matrix, whatever the size of x, or a multiple of 16 elements.

float16, bfloat16 and float32 are computed in float32 (Q5). Nothing waits for the device (Q7): numbers travel as float32
arguments of the launch, tensors are read by the kernel. A kernel is compiled when first called with other dtypes,
another tile shape or scaler; Triton keeps the result on disk.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from backends.contract import (
    NAN_CODE,
    NOISE_CONTROLS,
    SCALERS,
    BackendUnavailableError,
    Gradients,
    Needs,
    Scaler,
    check_axis,
    check_like,
    check_noise,
    check_parameters,
)
from backends.fused import overlap

TILE = 2048
WARPS = 8
"""8 elements of a tile for each thread: one or two loads of 16 bytes from each tensor."""
LONG, WIDE = 256, 32
"""Columns of a tile of many rows: by row, where they are added up, and by column, where rows are."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_NAN_CODE = tl.constexpr(float(NAN_CODE))
_NO_FRACTION = tl.constexpr(2.0**23)


@torch.no_grad()
def codes(x: Tensor, step: Any, lower: Any, upper: Any, *, axis: int | None = None) -> Tensor:
    """`rint(clip(x, lower, upper) / step)` as int32; see `backends.fused.codes`."""
    plan = _plan(x, step, lower, upper, axis)
    y = torch.empty_like(plan.x, dtype=torch.int32)
    plan.launch(_quantize_kernel, plan.x, y)
    return y


@torch.no_grad()
def forward(
    x: Tensor, step: Any, lower: Any, upper: Any, *, axis: int | None = None, out: Tensor | None = None
) -> Tensor:
    """`rint(clip(x, lower, upper) / step) * step`; see `backends.fused.forward`.

    Raises `BackendUnavailableError` for float64, and `ValueError` for a parameter that is neither a CPU scalar nor on
    the device of x.
    """
    plan = _plan(x, step, lower, upper, axis)
    y = plan.target(out)
    plan.launch(_quantize_kernel, plan.x, y)
    return _deliver(y, out)


@torch.no_grad()
def backward(
    grad: Tensor,
    x: Tensor,
    step: Any,
    lower: Any,
    upper: Any,
    *,
    scaler: Scaler,
    axis: int | None = None,
    noise: Tensor | None = None,
    out: Tensor | None = None,
    needs: Needs = (True, True, True),
) -> Gradients:
    """The four gradients; see `backends.fused.backward`.

    `grad` and `noise` may be of other float dtypes than x. The sums are float32: a tree within each tile, then torch's
    own sum over tiles. Raises `BackendUnavailableError` for a registered scaler, too, which is eager's (S5).
    """
    plan = _plan(x, step, lower, upper, axis)
    check_like("grad", grad, x)
    check_noise(scaler, noise, x.shape)
    arrays = _laid_out(grad, plan.x), plan.x, _laid_out(noise, plan.x)
    dx = plan.target(out, *arrays)
    partial = torch.empty((sum(needs), *plan.partial_shape), dtype=torch.float32, device=x.device)
    plan.launch(_backward_kernel, *arrays, dx, partial, partial.stride(0), **_scaler_arguments(scaler), NEEDS=needs)
    found = iter(partial.sum((1, 3)) if any(needs) else ())
    sums = (
        _sum_to(own, next(found)) if needed else None for own, needed in zip((step, lower, upper), needs, strict=True)
    )
    return Gradients(_deliver(dx, out), *sums)


@torch.no_grad()
def multiplier(scaler: Scaler, grad: Tensor, error: Tensor, noise: Tensor | None = None) -> Tensor:
    """The multiplier s; see `backends.fused.multiplier`."""
    grad = _dense(_checked(grad))
    check_like("error", error, grad)
    check_noise(scaler, noise, grad.shape)
    s = torch.empty_like(grad)
    arrays = grad, _laid_out(error, grad), _laid_out(noise, grad), s
    _launch(_multiplier_kernel, _tiles(s.numel(), TILE), *arrays, s.numel(), **_scaler_arguments(scaler), COLUMNS=TILE)
    return s


# Around the kernels


class _Plan(NamedTuple):
    """x without gaps and overlaps, as a matrix of tiles, and the parameters as the kernels take them."""

    x: Tensor
    parameters: tuple[float | Tensor, ...]
    outer: int
    channels: int
    inner: int
    by_column: bool
    rows: int
    columns: int
    tile_rows: int

    @property
    def tile_columns(self) -> int:
        return TILE // self.tile_rows

    @property
    def down(self) -> int:
        """Tiles below each other."""
        return _tiles(self.rows, self.tile_rows)

    @property
    def across(self) -> int:
        """Tiles beside each other."""
        return _tiles(self.columns, self.tile_columns)

    @property
    def partial_shape(self) -> tuple[int, ...]:
        """Of one sum: around the channels, what is left to be added up."""
        if self.by_column:
            return self.down, self.channels, self.inner
        return self.outer, self.channels, self.across

    def target(self, out: Tensor | None, *read: Tensor | None) -> Tensor:
        """Where the kernel writes what is like x: `out`, if it lies as x does, and apart from what is read."""
        if out is None:
            return torch.empty_like(self.x)
        check_like("out", out, self.x)
        alike = _order(out) == _order(self.x) and not out.is_neg()
        usable = alike and not any(overlap(out, each) for each in (self.x, *read))
        return out if usable else torch.empty_like(self.x)

    def launch(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        _launch(
            kernel,
            self.down * self.across,
            *arguments,
            *self.parameters,
            self.rows,
            self.columns,
            self.across,
            self.channels,
            self.inner,
            **constants,
            NUMBERS=tuple(isinstance(parameter, float) for parameter in self.parameters),
            BY_COLUMN=self.by_column,
            ROWS=self.tile_rows,
            COLUMNS=self.tile_columns,
        )


def _plan(x: Tensor, step: Any, lower: Any, upper: Any, axis: int | None) -> _Plan:
    """The plan, after every check that need not wait for the device."""
    x = _dense(_checked(x))
    parameters, axis = _arguments(x, {"step": step, "lower": lower, "upper": upper}, axis)
    channels = 1 if axis is None else x.shape[axis]
    inner = x.numel() if axis is None or channels <= 1 else x.stride()[axis]
    outer = x.numel() // max(channels * inner, 1)
    by_column = inner < outer
    rows, columns = (outer, channels * inner) if by_column else (outer * channels, inner)
    widest = min(_power_of_two(columns), WIDE if by_column else LONG)
    tile_rows = min(_power_of_two(rows), TILE // widest)
    return _Plan(x, parameters, outer, channels, inner, by_column, rows, columns, tile_rows)


def _arguments(x: Tensor, given: dict[str, Any], axis: int | None) -> tuple[tuple[float | Tensor, ...], int | None]:
    """The parameters as the kernels take them (Q5-Q7), and the channel axis where any of them has channels."""
    numbers = {name: float(value) for name, value in given.items() if _is_cpu_scalar(value)}
    check_parameters(**numbers)
    tensors = {name: value for name, value in given.items() if name not in numbers}
    for name, tensor in tensors.items():
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, expected the device of x, {x.device}")
    axis = check_axis(axis, x.shape, **{name: tensor.shape for name, tensor in tensors.items()})
    if not any(tensor.ndim for tensor in tensors.values()):
        axis = None
    channels = 1 if axis is None else x.shape[axis]
    channelwise = {name: tensor.to(torch.float32).expand(channels).contiguous() for name, tensor in tensors.items()}
    return tuple({**numbers, **channelwise}[name] for name in given), axis


def _tiles(length: int, tile: int) -> int:
    """How many it takes to cover the length."""
    return -(-length // tile)


def _power_of_two(length: int) -> int:
    """The smallest that is not below the length."""
    return 1 << max(length - 1, 0).bit_length()


def _launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """On the device of the first argument; nothing where there is nothing to do."""
    if programs:
        device = arguments[0].device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[(programs,)](*arguments, **constants, LARGE=programs * TILE >= 2**31, num_warps=WARPS)


def _checked(x: Tensor) -> Tensor:
    if x.dtype in DTYPES:
        return x
    if x.dtype == torch.float64:
        message = "backend 'fused' computes float16, bfloat16 and float32 on CUDA, not torch.float64: ask for 'eager'"
        raise BackendUnavailableError(message)
    raise TypeError(f"expected float16, bfloat16 or float32, got {x.dtype}")


def _is_cpu_scalar(value: Any) -> bool:
    """Whether reading the value costs nothing: a number, or a 0-d tensor on the CPU."""
    return not isinstance(value, Tensor) or (value.ndim == 0 and value.device.type == "cpu")


def _order(x: Tensor) -> list[int]:
    """The strides that say how x lies in memory."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1]


def _dense(x: Tensor) -> Tensor:
    """x, or where its elements have gaps or overlaps, or turned signs, a copy without, in the order of its strides."""
    x, expected = x.resolve_neg(), 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1):
        if stride != expected:
            return x.clone()
        expected *= size
    return x


def _laid_out(array: Tensor | None, x: Tensor) -> Tensor | None:
    """The array, or where it does not lie in memory as x does a copy that does."""
    if array is None or (_order(array) == _order(x) and not array.is_neg()):
        return array
    return torch.empty_like(x, dtype=array.dtype).copy_(array)


def _deliver(result: Tensor, out: Tensor | None) -> Tensor:
    """The result, in `out` where given; autograd is told of what a kernel wrote there."""
    if out is None:
        return result
    if out is not result:
        return out.copy_(result)
    increment_version(out)
    return out


def _sum_to(parameter: Any, sums: Tensor) -> Tensor:
    """From one sum per channel those that belong to the parameter: as they are, or all in one."""
    if getattr(parameter, "ndim", 0):
        return sums
    return sums.sum() if sums.numel() != 1 else sums.reshape(())


def _scaler_arguments(scaler: Scaler) -> dict[str, Any]:
    """s = 1 + strength * curve(g, e, alpha), whichever form (S1)."""
    if scaler.name not in SCALERS + NOISE_CONTROLS:
        message = f"backend 'fused' has no kernel for the registered scaler {scaler.name!r}: ask for 'eager'"
        raise BackendUnavailableError(message)
    alpha = float(scaler.alpha or 0)
    normalised = {"acos": 0.5, "tanh": 0.5, "invtanh": 0.5 / math.atanh(alpha / 2) if scaler.name == "invtanh" else 1.0}
    factor = normalised.get(scaler.name, 1.0) if scaler.form == "normalised" else 1.0
    curve = "noise" if scaler.needs_noise else scaler.name
    return {"strength": scaler.delta * factor, "alpha": alpha, "CURVE": curve}


# The kernels. LARGE: places in memory, those of masked elements among them, are counted in 64 bits, not in 32.


@triton.jit(do_not_specialize=["rows", "across", "channels", "inner"])
def _quantize_kernel(
    x,
    y,
    step,
    lower,
    upper,
    rows,
    columns,
    across,
    channels,
    inner,
    NUMBERS: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    LARGE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Values of one tile, or its codes where y is int32."""
    row, column, place, mask, inside = _tile(rows, columns, across, LARGE, ROWS, COLUMNS)
    channel = tl.minimum(column // inner, channels - 1) if BY_COLUMN else row % channels
    step, lower, upper = _parameters(step, lower, upper, channel, NUMBERS)
    rounded = _rint(_position(_load(x + place, mask, inside), step, lower, upper))
    if y.dtype.element_ty == tl.int32:
        _store(y + place, tl.where(rounded == rounded, rounded, _NAN_CODE), mask, inside)
    else:
        _store(y + place, rounded * step, mask, inside)


@triton.jit(do_not_specialize=["rows", "across", "channels", "inner", "partial_size"])
def _backward_kernel(
    grad,
    x,
    noise,
    dx,
    partial,
    partial_size,
    step,
    lower,
    upper,
    rows,
    columns,
    across,
    channels,
    inner,
    strength,
    alpha,
    CURVE: tl.constexpr,
    NEEDS: tl.constexpr,
    NUMBERS: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    LARGE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """dx of one tile, and those of its sums for dstep, dlower and dupper that are needed: one for each of its rows or,
    by column, columns."""
    row, column, place, mask, inside = _tile(rows, columns, across, LARGE, ROWS, COLUMNS)
    channel = tl.minimum(column // inner, channels - 1) if BY_COLUMN else row % channels
    step, lower, upper = _parameters(step, lower, upper, channel, NUMBERS)
    value, g = _load(x + place, mask, inside), _load(grad + place, mask, inside)
    v = _position(value, step, lower, upper)
    rounded = _rint(v)
    s = _multiplier(g, v - rounded, noise, place, mask, inside, strength, alpha, CURVE)
    scaled = g * s
    _store(dx + place, tl.where((lower <= value) & (value <= upper), scaled, 0.0), mask, inside)

    # Where the tile reaches beyond the matrix x and g are 0, and so is each of these terms.
    along: tl.constexpr = 0 if BY_COLUMN else 1
    program = _program(LARGE)
    sum_mask = column < columns if BY_COLUMN else row < rows
    partial += program // across * columns + column if BY_COLUMN else row * across + program % across
    if NEEDS[0]:
        tl.store(partial, tl.sum(g * (rounded - s * v), along, keep_dims=True), sum_mask)
        partial += partial_size
    if NEEDS[1]:
        tl.store(partial, tl.sum(tl.where(value < lower, scaled, 0.0), along, keep_dims=True), sum_mask)
        partial += partial_size
    if NEEDS[2]:
        tl.store(partial, tl.sum(tl.where(value > upper, scaled, 0.0), along, keep_dims=True), sum_mask)


@triton.jit(do_not_specialize=["count"])
def _multiplier_kernel(
    grad, error, noise, s, count, strength, alpha, CURVE: tl.constexpr, LARGE: tl.constexpr, COLUMNS: tl.constexpr
):
    """s of one tile of all elements in a row."""
    _, _, place, mask, inside = _tile(1, count, tl.num_programs(0), LARGE, 1, COLUMNS)
    g, e = _load(grad + place, mask, inside), _load(error + place, mask, inside)
    _store(s + place, _multiplier(g, e, noise, place, mask, inside, strength, alpha, CURVE), mask, inside)


@triton.jit
def _program(LARGE: tl.constexpr):
    """The program's number, in the width in which places in memory are counted."""
    program = tl.program_id(0)
    return program.to(tl.int64) if LARGE else program


@triton.jit
def _tile(rows, columns, across, LARGE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of this program's tile: its rows (ROWS, 1), columns (1, COLUMNS), places in memory, which of them are within the
    matrix, and whether all are."""
    program = _program(LARGE)
    if ROWS == 1:  # of a matrix of a single row
        first_row, first_column = 0, program * COLUMNS
    else:
        first_row, first_column = program // across * ROWS, program % across * COLUMNS
    row = first_row + tl.arange(0, ROWS)[:, None]
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    place = column if ROWS == 1 else row * columns + column  # a single row is aligned, whatever its length
    inside = (first_row + ROWS <= rows) & (first_column + COLUMNS <= columns)
    return row, column, place, (row < rows) & (column < columns), inside


@triton.jit
def _load(pointers, mask, inside):
    """In float32, and 0 outside the matrix."""
    tile = tl.load(pointers) if inside else tl.load(pointers, mask, other=0.0)
    return tile.to(tl.float32)


@triton.jit
def _store(pointers, tile, mask, inside):
    """In the dtype of the target: the one cast (Q5)."""
    tile = tile.to(pointers.dtype.element_ty)
    if inside:
        tl.store(pointers, tile)
    else:
        tl.store(pointers, tile, mask)


@triton.jit
def _parameters(step, lower, upper, channel, NUMBERS: tl.constexpr):
    """Those of the channels, in float32."""
    step = step if NUMBERS[0] else tl.load(step + channel)
    lower = lower if NUMBERS[1] else tl.load(lower + channel)
    upper = upper if NUMBERS[2] else tl.load(upper + channel)
    return tl.cast(step, tl.float32), tl.cast(lower, tl.float32), tl.cast(upper, tl.float32)


@triton.jit
def _position(x, step, lower, upper):
    """v = clip(x) / step: clip by comparisons, which NaN passes, then a correctly rounded division (Q1, Q3, Q6).

    One division for a step serves all its elements: a quotient by the correctly rounded reciprocal is mended twice by
    its exact remainder (Markstein), which takes no branch. Powers of two keep a tiny or huge step's reciprocal normal.
    Below 2**-24 in size v may be off in its last place, and the code is 0.
    """
    clipped = tl.where(x < lower, lower, tl.where(x > upper, upper, x))
    scale = tl.where(step < 2.0**-62, 2.0**64, tl.where(step > 2.0**62, 2.0**-64, 1.0))
    dividend, divisor = clipped * scale, step * scale
    reciprocal = tl.div_rn(1.0, divisor)
    quotient = dividend * reciprocal
    quotient = tl.fma(tl.fma(-quotient, divisor, dividend), reciprocal, quotient)
    return tl.fma(tl.fma(-quotient, divisor, dividend), reciprocal, quotient)


@triton.jit
def _rint(v):
    """Half to even and exact (Q2): beside 2**23 float32 has no room for a fraction, so that the addition rounds it."""
    size = tl.abs(v)
    rounded = tl.where(size < _NO_FRACTION, size + _NO_FRACTION - _NO_FRACTION, size)
    return tl.where(v < 0, -rounded, rounded)


@triton.jit
def _multiplier(g, e, noise, place, mask, inside, strength, alpha, CURVE: tl.constexpr):
    """The scaler table; in the scalers' curves nothing of the form is left but `strength` (S1)."""
    sign = tl.where(g > 0, 1.0, tl.where(g < 0, -1.0, g))  # of 0 it is 0, of NaN NaN
    if CURVE == "ste":
        curve = tl.full(g.shape, 0.0, tl.float32)
    elif CURVE == "pbgs":
        curve = tl.abs(e)
    elif CURVE == "ewgs":
        curve = sign * e
    elif CURVE == "acos":
        curve = _sin_pi(e)
    elif CURVE == "tanh":
        curve = sign * _tanh(alpha * e)
    elif CURVE == "invtanh":
        curve = sign * _arctanh(alpha * e)
    else:
        tl.static_assert(CURVE == "noise")
        curve = _load(noise + place, mask, inside)
    return 1.0 + strength * curve


# Odd functions, each within 8 * 2**-24 of its result. The polynomials are minimax in relative error, by linear
# programming over Chebyshev nodes: within 0.4 * 2**-24 on their interval.


@triton.jit
def _sin_pi(e):
    """sin(pi * e) for |e| <= 0.5."""
    z = e * e
    p = 0.077304907143116 * z - 0.5981237292289734
    p = (p * z + 2.5500526428222656) * z - 5.167708873748779
    return e * (p * z + 3.1415927410125732)


@triton.jit
def _tanh(u):
    """A polynomial for |u| < 0.5, beyond (1 - w) / (1 + w) with w = exp(-2 * |u|)."""
    z = u * u
    p = 0.01724150776863098 * z - 0.053045500069856644
    p = (p * z + 0.13325878977775574) * z - 0.333331435918808
    w = tl.exp(-2.0 * tl.abs(u))
    far = tl.div_rn(1.0 - w, 1.0 + w)
    return tl.where(z < 0.25, u + u * (z * p), tl.where(u < 0, -far, far))


@triton.jit
def _arctanh(u):
    """A polynomial for |u| < 0.5, beyond log((1 + |u|) / (1 - |u|)) / 2; |u| < 1."""
    z = u * u
    p = 0.18173809349536896 * z + 0.08243849873542786
    p = (p * z + 0.14669111371040344) * z + 0.19978219270706177
    size = tl.abs(u)
    far = 0.5 * tl.log(tl.div_rn(1.0 + size, 1.0 - size))
    return tl.where(z < 0.25, u + u * (z * (p * z + 0.33333730697631836)), tl.where(u < 0, -far, far))
