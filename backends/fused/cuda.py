"""The fused backend on CUDA, in Triton: one pass over memory forward, one backward, and a sum of partial sums.

Elements are walked in the order in which they lie in memory. A layout without gaps or overlaps (contiguous, transposed,
channels-last) is therefore read and written in place; x of another layout is copied first, and so is any `grad`,
`noise` or `out` that is not laid out like x. In memory order x is a block (outer, channels, inner), which the kernels
see as a matrix cut into tiles. A whole row, or a whole column, of it belongs to one channel:

    (outer * channels, inner)      where inner >= outer
    (outer, channels * inner)      elsewhere

One program does one tile, or backward up to eight in a row of tiles or a column of them. Backward it leaves the sums
for each row or column of its tiles, which torch then adds up: no atomics, the same result at every run (G3). A tile
that lies wholly inside the matrix is loaded and stored without a mask: in vectors of 8 or 16 bytes where a row is the
whole matrix, whatever the size of x, or a multiple of 16 elements.

float16, bfloat16 and float32 are computed in float32 (Q5). Nothing waits for the device (Q7): numbers travel as float32
arguments of the launch, tensors are read by the kernel. A kernel is compiled when first called with other dtypes,
another tile shape or scaler; Triton keeps the result on disk.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import lru_cache
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

TILE, SUMMED, WARPS = 1024, 512, 4
"""Elements of a tile, and of one that sums may be taken of, backward: for each thread, eight and four."""
MOST, ENOUGH = 8, 512
"""Tiles of a program backward, at most, where there are enough programs to keep a GPU busy."""
LONG, WIDE = 256, 32
"""Columns of a tile of many rows: by row, where they are added up, and by column, where rows are."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_NAN_CODE = tl.constexpr(float(NAN_CODE))
_NO_FRACTION = tl.constexpr(2.0**23)
_SIGN = tl.constexpr(-(2**31))


@torch.no_grad()
def codes(x: Tensor, step: Any, lower: Any, upper: Any, *, axis: int | None = None) -> Tensor:
    """`rint(clip(x, lower, upper) / step)` as int32; see `backends.fused.codes`."""
    plan = _plan(x, step, lower, upper, axis)
    y = torch.empty_like(plan.x, dtype=torch.int32)
    plan.launch(_quantize_kernel, plan.matrix.programs(), plan.x, y)
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
    plan.launch(_quantize_kernel, plan.matrix.programs(), plan.x, y)
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

    `grad` and `noise` may be of other float dtypes than x. The sums are float32: over a program's tiles in turn, a tree
    within the program, and torch's own sum over programs. Raises `BackendUnavailableError` for a registered scaler,
    too, which is eager's (S5).
    """
    plan = _plan(x, step, lower, upper, axis, SUMMED)
    check_like("grad", grad, x)
    check_noise(scaler, noise, x.shape)
    arrays = _laid_out(grad, plan.x), plan.x, _laid_out(noise, plan.x)
    dx = plan.target(out, *arrays)
    tiles = min(max(x.numel() // (ENOUGH * SUMMED), 1), MOST)
    programs = plan.matrix.programs(tiles)
    partial = torch.empty((sum(needs), *plan.matrix.partial_shape(*programs)), dtype=torch.float32, device=x.device)
    constants = {**_scaler_arguments(scaler), "repeat": tiles, "NEEDS": needs, "EACH": SUMMED // (32 * WARPS)}
    plan.launch(_backward_kernel, programs, *arrays, dx, partial, partial.stride(0), **constants)
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
    tiles = _tiles(s.numel(), TILE)
    _launch(_multiplier_kernel, tiles, tiles * TILE, *arrays, s.numel(), **_scaler_arguments(scaler), COLUMNS=TILE)
    return s


# Around the kernels


class _Matrix(NamedTuple):
    """A block (outer, channels, inner) of memory as a matrix of tiles."""

    outer: int
    channels: int
    inner: int
    by_column: bool
    rows: int
    columns: int
    tile_rows: int
    tile_columns: int

    def programs(self, tiles: int = 1) -> tuple[int, int]:
        """Those below each other, and those beside each other, where each has so many tiles, over rows or columns."""
        below, beside = (tiles, 1) if self.by_column else (1, tiles)
        return _tiles(self.rows, self.tile_rows * below), _tiles(self.columns, self.tile_columns * beside)

    def partial_shape(self, down: int, across: int) -> tuple[int, ...]:
        """Of one sum by so many programs: around the channels, what is left to be added up."""
        return (down, self.channels, self.inner) if self.by_column else (self.outer, self.channels, across)

    @property
    def places(self) -> int:
        """In memory, those of masked elements among them."""
        return (
            _tiles(self.rows, self.tile_rows)
            * self.tile_rows
            * _tiles(self.columns, self.tile_columns)
            * self.tile_columns
        )


@lru_cache(maxsize=1024)
def _matrix(shape: tuple[int, ...], strides: tuple[int, ...], axis: int | None, tile: int) -> _Matrix:
    """Of memory without gaps that is laid out so, in tiles of so many elements; no axis: one channel."""
    count = math.prod(shape)
    channels = 1 if axis is None else shape[axis]
    inner = count if axis is None or channels <= 1 else strides[axis]
    outer = count // max(channels * inner, 1)
    by_column = inner < outer
    rows, columns = (outer, channels * inner) if by_column else (outer * channels, inner)
    widest = min(_power_of_two(columns), WIDE if by_column else LONG)
    tile_rows = min(_power_of_two(rows), tile // widest)
    return _Matrix(outer, channels, inner, by_column, rows, columns, tile_rows, tile // tile_rows)


class _Plan(NamedTuple):
    """x without gaps and overlaps, as a matrix, and the parameters as the kernels take them."""

    x: Tensor
    parameters: tuple[float | Tensor, ...]
    matrix: _Matrix

    def target(self, out: Tensor | None, *read: Tensor | None) -> Tensor:
        """Where the kernel writes what is like x: `out`, if it lies as x does, and apart from what is read."""
        if out is None:
            return torch.empty_like(self.x)
        check_like("out", out, self.x)
        alike = _order(out) == _order(self.x) and not out.is_neg()
        usable = alike and not any(overlap(out, each) for each in (self.x, *read))
        return out if usable else torch.empty_like(self.x)

    def launch(self, kernel: Any, programs: tuple[int, int], *arguments: Any, **constants: Any) -> None:
        matrix, (down, across) = self.matrix, programs
        _launch(
            kernel,
            down * across,
            matrix.places,
            *arguments,
            *self.parameters,
            matrix.rows,
            matrix.columns,
            across,
            matrix.channels,
            matrix.inner,
            **constants,
            NUMBERS=tuple(isinstance(parameter, float) for parameter in self.parameters),
            BY_COLUMN=matrix.by_column,
            ROWS=matrix.tile_rows,
            COLUMNS=matrix.tile_columns,
        )


def _plan(x: Tensor, step: Any, lower: Any, upper: Any, axis: int | None, tile: int = TILE) -> _Plan:
    """The plan, after every check that need not wait for the device."""
    x = _dense(_checked(x))
    parameters, axis = _arguments(x, {"step": step, "lower": lower, "upper": upper}, axis)
    return _Plan(x, parameters, _matrix(x.shape, x.stride(), axis, tile))


def _arguments(x: Tensor, given: dict[str, Any], axis: int | None) -> tuple[tuple[float | Tensor, ...], int | None]:
    """The parameters as the kernels take them (Q5-Q7), and the channel axis where any of them has channels."""
    numbers = {name: float(value) for name, value in given.items() if _is_cpu_scalar(value)}
    _check_numbers(**numbers)
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


@lru_cache(maxsize=1024)
def _check_numbers(**numbers: float) -> None:
    """`check_parameters` of numbers that were not found good before."""
    check_parameters(**numbers)


def _tiles(length: int, tile: int) -> int:
    """How many it takes to cover the length."""
    return -(-length // tile)


def _power_of_two(length: int) -> int:
    """The smallest that is not below the length."""
    return 1 << max(length - 1, 0).bit_length()


def _launch(kernel: Any, programs: int, places: int, *arguments: Any, **constants: Any) -> None:
    """On the device of the first argument; nothing where there is nothing to do."""
    if programs:
        device = arguments[0].device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[(programs,)](*arguments, **constants, LARGE=places >= 2**31, num_warps=WARPS)


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
    x = x.resolve_neg()
    return x if _is_dense(x.shape, x.stride()) else x.clone()


@lru_cache(maxsize=1024)
def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements that lie so have neither gaps nor overlaps."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


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
    above, left = _program(across, LARGE, ROWS == 1)
    row, column = above * ROWS, left * COLUMNS
    step, lower, upper = _parameters(
        step, lower, upper, row, column, channels, inner, NUMBERS, BY_COLUMN, ROWS, COLUMNS
    )
    place, mask, inside = _tile(row, column, rows, columns, ROWS, COLUMNS)
    rounded = _rint(_position(_clip(_load(x + place, mask, inside), lower, upper), step))
    if y.dtype.element_ty == tl.int32:
        _store(y + place, tl.where(rounded == rounded, rounded, _NAN_CODE), mask, inside)
    else:
        _store(y + place, rounded * step, mask, inside)


@triton.jit(do_not_specialize=["rows", "across", "channels", "inner", "partial_size", "repeat"])
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
    repeat,
    CURVE: tl.constexpr,
    NEEDS: tl.constexpr,
    EACH: tl.constexpr,
    NUMBERS: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    LARGE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """dx of a program's tiles, and those of their sums for dstep, dlower and dupper that are needed: one for each of
    its rows or, by column, columns. Its tiles lie beside each other or, by column, below."""
    above, left = _program(across, LARGE, ROWS == 1)
    if BY_COLUMN:
        row, column = above * (repeat * ROWS), left * COLUMNS
        tiles = tl.minimum(repeat, (rows - row + ROWS - 1) // ROWS)
        sums = column + tl.arange(0, COLUMNS)[None, :]
        partial, sum_mask = partial + above * columns + sums, sums < columns
    else:
        row, column = above * ROWS, left * (repeat * COLUMNS)
        tiles = tl.minimum(repeat, (columns - column + COLUMNS - 1) // COLUMNS)
        sums = row + tl.arange(0, ROWS)[:, None]
        partial, sum_mask = partial + sums * across + left, sums < rows
    step, lower, upper = _parameters(
        step, lower, upper, row, column, channels, inner, NUMBERS, BY_COLUMN, ROWS, COLUMNS
    )

    NEIGHBOURS: tl.constexpr = 1 if BY_COLUMN else EACH if EACH < COLUMNS else COLUMNS
    dstep = tl.full((ROWS, COLUMNS // NEIGHBOURS), 0.0, tl.float32)
    dlower = tl.full((ROWS, COLUMNS // NEIGHBOURS), 0.0, tl.float32)
    dupper = tl.full((ROWS, COLUMNS // NEIGHBOURS), 0.0, tl.float32)
    for _ in range(tiles):
        place, mask, inside = _tile(row, column, rows, columns, ROWS, COLUMNS)
        value, g = _load(x + place, mask, inside), _load(grad + place, mask, inside)
        clipped = _clip(value, lower, upper)
        v = _position(clipped, step)
        rounded = _rint(v)
        s = _multiplier(g, v - rounded, noise, place, mask, inside, strength, alpha, CURVE)
        scaled = g * s
        _store(dx + place, tl.where(value == clipped, scaled, 0.0), mask, inside)
        # Where the tile reaches beyond the matrix x and g are 0, and so is each of these terms.
        if NEEDS[0]:
            dstep += _few(g * (rounded - s * v), NEIGHBOURS)
        if NEEDS[1]:
            dlower += _few(tl.where(value < clipped, scaled, 0.0), NEIGHBOURS)
        if NEEDS[2]:
            dupper += _few(tl.where(value > clipped, scaled, 0.0), NEIGHBOURS)
        if BY_COLUMN:
            row += ROWS
        else:
            column += COLUMNS

    along: tl.constexpr = 0 if BY_COLUMN else 1
    if NEEDS[0]:
        tl.store(partial, tl.sum(dstep, along, keep_dims=True), sum_mask)
        partial += partial_size
    if NEEDS[1]:
        tl.store(partial, tl.sum(dlower, along, keep_dims=True), sum_mask)
        partial += partial_size
    if NEEDS[2]:
        tl.store(partial, tl.sum(dupper, along, keep_dims=True), sum_mask)


@triton.jit(do_not_specialize=["count"])
def _multiplier_kernel(
    grad, error, noise, s, count, strength, alpha, CURVE: tl.constexpr, LARGE: tl.constexpr, COLUMNS: tl.constexpr
):
    """s of one tile of all elements in a row."""
    above, left = _program(0, LARGE, True)
    place, mask, inside = _tile(above, left * COLUMNS, 1, count, 1, COLUMNS)
    g, e = _load(grad + place, mask, inside), _load(error + place, mask, inside)
    found = _multiplier(g, e, noise, place, mask, inside, strength, alpha, CURVE)
    if CURVE == "ewgs" or CURVE == "tanh" or CURVE == "invtanh":
        found = tl.where((g == 0) & (e == e), 1.0, tl.where(g == g, found, g))  # the sign of 0 is 0, of NaN NaN
    _store(s + place, found, mask, inside)


@triton.jit
def _program(across, LARGE: tl.constexpr, SINGLE: tl.constexpr):
    """How many programs are above this one and how many to its left, in the width in which places are counted."""
    program = tl.program_id(0)
    if LARGE:
        program = program.to(tl.int64)
    if SINGLE:  # all lie in one row
        return program * 0, program
    return program // across, program % across


@triton.jit
def _tile(row, column, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of the tile that begins there: places in memory, which of them are within the matrix, and whether all are."""
    inside = (row + ROWS <= rows) & (column + COLUMNS <= columns)
    row += tl.arange(0, ROWS)[:, None]
    column += tl.arange(0, COLUMNS)[None, :]
    place = column if ROWS == 1 else row * columns + column  # a single row is aligned, whatever its length
    return place, (row < rows) & (column < columns), inside


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
def _few(tile, NEIGHBOURS: tl.constexpr):
    """Sums of so many neighbours in a row, which one thread has where it loads a vector."""
    if NEIGHBOURS == 1:
        return tile
    return tl.sum(tl.reshape(tile, (tile.shape[0], tile.shape[1] // NEIGHBOURS, NEIGHBOURS)), 2)


@triton.jit
def _parameters(
    step,
    lower,
    upper,
    row,
    column,
    channels,
    inner,
    NUMBERS: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Those of the channels of a program's rows or, by column, columns, in float32."""
    if BY_COLUMN:
        channel = tl.minimum((column + tl.arange(0, COLUMNS)[None, :]) // inner, channels - 1)
    else:
        channel = (row + tl.arange(0, ROWS)[:, None]) % channels
    step = step if NUMBERS[0] else tl.load(step + channel)
    lower = lower if NUMBERS[1] else tl.load(lower + channel)
    upper = upper if NUMBERS[2] else tl.load(upper + channel)
    return tl.cast(step, tl.float32), tl.cast(lower, tl.float32), tl.cast(upper, tl.float32)


@triton.jit
def _clip(x, lower, upper):
    """Of NaN it is NaN (Q6)."""
    ALL: tl.constexpr = tl.PropagateNan.ALL
    return tl.minimum(tl.maximum(x, lower, propagate_nan=ALL), upper, propagate_nan=ALL)


@triton.jit
def _position(clipped, step):
    """v = clip(x) / step: a correctly rounded division (Q1, Q3).

    One division for a step serves all its elements: a quotient by the correctly rounded reciprocal is mended twice by
    its exact remainder (Markstein), which takes no branch. Powers of two keep a tiny or huge step's reciprocal normal.
    Below 2**-24 in size v may be off in its last place, and the code is 0.
    """
    scale = tl.where(step < 2.0**-62, 2.0**64, tl.where(step > 2.0**62, 2.0**-64, 1.0))
    dividend, minus_divisor = clipped * scale, -step * scale
    reciprocal = tl.div_rn(1.0, step * scale)
    quotient = dividend * reciprocal
    quotient = tl.fma(tl.fma(quotient, minus_divisor, dividend), reciprocal, quotient)
    return tl.fma(tl.fma(quotient, minus_divisor, dividend), reciprocal, quotient)


@triton.jit
def _rint(v):
    """Half to even and exact (Q2): beside 2**23 float32 has no room for a fraction, so that the addition rounds it."""
    no_fraction = _turned(tl.full(v.shape, _NO_FRACTION, tl.float32), v)
    return tl.where(tl.abs(v) < _NO_FRACTION, v + no_fraction - no_fraction, v)


@triton.jit
def _turned(value, x):
    """The value, its sign turned where that of x is negative."""
    sign = x.to(tl.int32, bitcast=True) & _SIGN
    return (value.to(tl.int32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)


@triton.jit
def _multiplier(g, e, noise, place, mask, inside, strength, alpha, CURVE: tl.constexpr):
    """The scaler table; in the scalers' curves nothing of the form is left but `strength` (S1).

    A g of 0 counts as positive or negative here, and NaN too: times g it makes no difference.
    """
    if CURVE == "ste":
        curve = tl.full(e.shape, 0.0, tl.float32)
    elif CURVE == "pbgs":
        curve = tl.abs(e)
    elif CURVE == "ewgs":
        curve = _turned(e, g)
    elif CURVE == "acos":
        curve = _sin_pi(e)
    elif CURVE == "tanh":
        curve = _turned(_tanh(alpha * e), g)
    elif CURVE == "invtanh":
        curve = _turned(_arctanh(alpha * e), g)
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
    far = (1.0 - w) / (1.0 + w)
    return tl.where(z < 0.25, u + u * (z * p), tl.where(u < 0, -far, far))


@triton.jit
def _arctanh(u):
    """A polynomial for |u| < 0.5, beyond log((1 + |u|) / (1 - |u|)) / 2; |u| < 1."""
    z = u * u
    p = 0.18173809349536896 * z + 0.08243849873542786
    p = (p * z + 0.14669111371040344) * z + 0.19978219270706177
    size = tl.abs(u)
    far = 0.5 * tl.log((1.0 + size) / (1.0 - size))
    return tl.where(z < 0.25, u + u * (z * (p * z + 0.33333730697631836)), tl.where(u < 0, -far, far))
