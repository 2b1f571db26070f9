"""The loops of the CPU kernels: one pass each over blocks that threads claim, compiled by Numba on first use.

A loop is a C function of one argument, the address of a job: `SLOTS` integers of 64 bits (sizes, and addresses of
arrays) and then the float32 numbers that the job needs. Everything that a loop is made of stands in this file, because
Numba's cache notices no change of another one; only the code of NaN is imported.

Results do not depend on the number of threads, nor on the width of the processor's vectors: blocks are those of the
job, and within one each sum runs in `LANES` float32 lanes over at most `RUN` elements, then in float64. The curves of
acos, tanh and invtanh may differ in the last digit where a processor has no fused multiply-add.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from backends.contract import NAN_CODE

NAMES = (
    "next",  # the block that nobody has claimed yet; first, because threads add to it
    "x",
    "grad",
    "noise",
    "out",
    "parameters",  # float32 [3, columns]: step, lower, upper
    "constants",  # float32 [CONSTANTS_OF_JOB]: of the scaler
    "partial",  # float64 [3, fold_outer, channels, fold_inner]: sums of the blocks; of step, lower, upper
    "result",  # float32 [3], and [3, channels] behind it where there are several: the sums
    "columns",  # grids: as many as channels, or one per element of a row
    "length",  # elements that follow each other on one grid; or all elements
    "block",  # elements of a block
    "per_length",  # blocks in one length
    "blocks",  # blocks in all
    "claim",  # blocks that a thread takes at once
    "fold_outer",
    "channels",
    "fold_inner",
)
SLOTS = len(NAMES)
"""Integers of a job, in this order."""
(NEXT, X, GRAD, NOISE, OUT, PARAMETERS, CONSTANTS, PARTIAL, RESULT) = range(9)
(COLUMNS, LENGTH, BLOCK, PER_LENGTH, BLOCKS, CLAIM, FOLD_OUTER, CHANNELS, FOLD_INNER) = range(9, SLOTS)

STE, PBGS, EWGS, ACOS, TANH, INVTANH, RANDOM = range(7)
"""The curves: the scalers of the contract, and one for both noise controls. Constants: factor, alpha."""
RATIONAL = {degree: 16 + degree for degree in range(2, 7)}
"""By degree: an odd curve in the direction of g, from a quotient of two polynomials. Constants as in `curves`."""
HIGHEST_DEGREE = max(RATIONAL)
CONSTANTS_OF_JOB = 2 + 2 * (HIGHEST_DEGREE + 1)
STEP_SUM, LOWER_SUM, UPPER_SUM = 1, 2, 4
"""The sums that a backward loop adds up; together, all."""
ALL_SUMS = STEP_SUM | LOWER_SUM | UPPER_SUM

LANES = 32
RUN = 64 * LANES
AHEAD = 256
"""Elements of x and of grad, from those that a backward loop reads to those whose line it asks for."""
LINE = 16
"""Elements of a cache line, of float32."""

ZERO, ONE = np.float32(0), np.float32(1)
LARGEST_EXPONENT = np.float32(18.5)
"""exp(2|x|) of it and more make tanh(x) = 1."""
_NAN_CODE = np.int32(NAN_CODE)

_SIGNATURE = types.void(types.int64)
_OPTIONS: Any = {"error_model": "numpy"}
"""No fast mathematics: divisions stay divisions (Q1), sums keep their order."""

_INLINED: Any = {"forceinline": True, **_OPTIONS}
_CURVE: Any = {**_INLINED, "fastmath": {"contract"}}
"""Within the approximations, and nowhere else, a product and a sum may become one operation, which rounds once."""


@intrinsic
def _pointer(typing_context, address, scalar):
    """The pointer to numbers of the type `scalar` (np.float32, ...) at an address."""
    result = types.CPointer(scalar.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, scalar), generate


def _inputs(module):
    """Metadata: the scope of what `_read` reads, and `_write` leaves alone."""
    domain = module.add_metadata(["repro.fused"])
    return module.add_metadata([module.add_metadata(["repro.fused.inputs", domain])])


@intrinsic
def _read(typing_context, pointer, i):
    """Element i of an input, which overlaps nothing that `_write` writes.

    So rows become vectors without a check at run time, and no second loop keeps their sums out of registers.
    """
    number = pointer.dtype

    def generate(context, builder, signature, arguments):
        loaded = builder.load(builder.gep(arguments[0], [arguments[1]]), align=number.bitwidth // 8)
        loaded.set_metadata("alias.scope", _inputs(builder.module))
        return loaded

    return number(pointer, types.int64), generate


@intrinsic
def _write(typing_context, pointer, i, value):
    """Set element i of an output, which overlaps nothing that `_read` reads."""
    number = pointer.dtype

    def generate(context, builder, signature, arguments):
        stored = builder.store(arguments[2], builder.gep(arguments[0], [arguments[1]]), align=number.bitwidth // 8)
        stored.set_metadata("noalias", _inputs(builder.module))
        return context.get_dummy_value()

    return types.void(pointer, types.int64, number), generate


@intrinsic
def _prefetch(typing_context, pointer, i):
    """Ask for the line of element i, to be read soon; nothing comes of it where there is none."""

    def generate(context, builder, signature, arguments):
        of_bytes, flag = cgutils.voidptr_t, ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [of_bytes, flag, flag, flag])
        function = builder.module.declare_intrinsic("llvm.prefetch", (of_bytes,), kind)
        line = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), of_bytes)
        builder.call(function, [line, flag(0), flag(3), flag(1)])  # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(pointer, types.int64), generate


@intrinsic
def _lanes_on_stack(typing_context):
    """A pointer to the float32 lanes of three sums, on the stack of the loop."""
    result = types.CPointer(types.float32)

    def generate(context, builder, signature, arguments):
        array = cgutils.alloca_once(builder, ir.ArrayType(ir.FloatType(), 3 * LANES))
        array.align = 64
        return builder.bitcast(array, context.get_value_type(result))

    return result(), generate


@intrinsic
def _fetch_add(typing_context, pointer, value):
    """Add to an int64 that threads share; returns what it was."""

    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", *arguments, "monotonic")

    return types.int64(pointer, types.int64), generate


@intrinsic
def _bits(typing_context, number):
    """The 32 bits of a float32 number, as an integer."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _from_bits(typing_context, bits):
    """The float32 number of the lowest 32 bits of an integer."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.trunc(arguments[0], ir.IntType(32)), ir.FloatType())

    return types.float32(bits), generate


def _widen(number: Any) -> Any:
    """float32 of a stored number: float32, or bfloat16 as its 16 bits."""


def _narrow(number: Any, storage: Any) -> Any:
    """What is stored of a float32 number; bfloat16 rounds half to even, and any NaN becomes the quiet one (Q5)."""


def _stored(rounded: Any, step: Any, target: Any) -> Any:
    """The code or the value of rint(v); NaN has a code of its own (Q6)."""


@overload(_widen, jit_options=_INLINED)
def _(number):
    if number == types.uint16:
        return lambda number: _from_bits(np.uint32(number) << np.uint32(16))
    return lambda number: number


@overload(_narrow, jit_options=_INLINED)
def _(number, storage):
    if storage.dtype != types.uint16:
        return lambda number, storage: number

    def narrow(number, storage):
        bits = _bits(number)
        even = np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
        return np.uint16(0x7FC0) if number != number else np.uint16(even >> np.uint32(16))

    return narrow


@overload(_stored, jit_options=_INLINED)
def _(rounded, step, target):
    if target.dtype == types.int32:
        return lambda rounded, step, target: _NAN_CODE if rounded != rounded else np.int32(rounded)
    return lambda rounded, step, target: _narrow(rounded * step, target)


@njit(**_INLINED)
def _clip(x, grid):
    """A NaN is neither below nor above, and stays (Q6)."""
    _, lower, upper = grid
    c = lower if x < lower else x
    return upper if c > upper else c


@njit(**_INLINED)
def _position(x, grid):
    """v = clip(x) / step (Q1, Q3)."""
    return _clip(x, grid) / grid[0]


@njit(**_CURVE)
def _sin_pi(e):
    """sin(pi * e) for |e| <= 0.5: pi * e + e**3 * P(e**2), P of least relative error; off by at most 2**-22 of it."""
    z = e * e
    p = np.float32(-0.5993955731391907) + z * np.float32(0.07975195348262787)
    p = np.float32(-5.167720317840576) + z * (np.float32(2.5502634048461914) + z * p)
    return e * (np.float32(np.pi) + z * p)


@njit(**_CURVE)
def _tanh(x):
    """tanh(x) = (E - 1) / (E + 1), E = exp(2|x|) = 2**k * (1 + p), |log(1 + p)| <= log(2) / 2.

    E - 1 = 2**k * p + (2**k - 1) cancels nothing; p = expm1(r) by a polynomial. Off by at most 2**-22 of itself.
    """
    y = abs(x) + abs(x)
    y = y if y < LARGEST_EXPONENT else LARGEST_EXPONENT
    shifted = y * np.float32(1 / np.log(2)) + np.float32(1.5 * 2**23)  # k in the lowest bits
    k = shifted - np.float32(1.5 * 2**23)
    power = _from_bits((_bits(shifted) << np.uint32(23)) + np.uint32(0x3F800000))
    r = y - k * np.float32(0.693359375) - k * np.float32(np.log(2) - 0.693359375)  # the first product is exact
    p = np.float32(0.04166720062494278) + r * (np.float32(0.008366580121219158) + r * np.float32(0.0013882509665563703))
    p = np.float32(0.4999999701976776) + r * (np.float32(0.1666654348373413) + r * p)
    p = power * (r + r * r * p)
    return np.copysign((p + (power - ONE)) / (p + (power + ONE)), x)


@njit(**_CURVE)
def _arctanh(x):
    """arctanh(x) for |x| < 1: half of log(p / q), p = 1 + |x|, q = 1 - |x|, p / q = 2**k * (1 + s) / (1 - s).

    So s = (p - 2**k * q) / (p + 2**k * q), taken as |x| + |x| over p + q where k = 0: nothing is lost near 0. k is read
    off the exponents, |s| <= 0.2004, and arctanh(s) = s + s**3 * P(s**2). Off by at most 2**-21 of itself.
    """
    y = abs(x)
    p, q = ONE + y, ONE - y
    ratio = np.uint32(_bits(p) - _bits(q) + np.uint32(0x400000))
    k = np.float32(np.int32(ratio >> np.uint32(23)))
    q *= _from_bits((ratio & np.uint32(0xFF800000)) + np.uint32(0x3F800000))
    s = (y + y if k == ZERO else p - q) / (p + q)
    z = s * s
    p = np.float32(0.333334743976593) + z * (np.float32(0.1997869461774826) + z * np.float32(0.15184974670410156))
    return np.copysign(k * np.float32(np.log(2) / 2) + (s + s * z * p), x)


def _polynomial(first: int, degree: int) -> Callable:
    """c[first] + t * (c[first + 1] + t * (...)), of this degree."""
    if degree == 0:
        return njit(lambda c, t: c[first], **_CURVE)
    rest = _polynomial(first + 1, degree - 1)
    return njit(lambda c, t: c[first] + t * rest(c, t), **_CURVE)


def _rational(degree: int) -> Callable:
    """e * P(t) / Q(t), t = c[0] + c[1] * e**2."""
    p, q = _polynomial(2, degree), _polynomial(3 + HIGHEST_DEGREE, degree)

    @njit(**_CURVE)
    def curve(e, c):
        t = c[0] + c[1] * (e * e)
        return e * p(c, t) / q(c, t)

    return curve


@njit(**_INLINED)
def _turned(number, g):
    """The number, with the other sign where that of g is negative."""
    return np.copysign(ONE, g) * number


def _directed(curve: Callable) -> Callable:
    """The multiplier of a curve that points in the direction of g."""
    return njit(lambda g, e, noise, i, c: ONE + _turned(curve(e, c), g), **_INLINED)


_MULTIPLIERS = {
    STE: njit(lambda g, e, noise, i, c: ONE, **_INLINED),
    PBGS: njit(lambda g, e, noise, i, c: ONE + c[0] * abs(e), **_INLINED),
    EWGS: _directed(njit(lambda e, c: c[0] * e, **_INLINED)),
    ACOS: njit(lambda g, e, noise, i, c: ONE + c[0] * _sin_pi(e), **_INLINED),
    TANH: _directed(njit(lambda e, c: c[0] * _tanh(c[1] * e), **_INLINED)),
    INVTANH: _directed(njit(lambda e, c: c[0] * _arctanh(c[1] * e), **_INLINED)),
    RANDOM: njit(lambda g, e, noise, i, c: ONE + c[0] * noise[i], **_INLINED),
    **{kind: _directed(_rational(degree)) for degree, kind in RATIONAL.items()},
}
"""The scaler table (S1): the multiplier of element i, c being the constants of the job. Factor is delta, times what the
normalised form adds to it. Where g = 0 its sign counts, as nothing comes of it but zeros."""


def _multiplier(kind: Any, g: Any, e: Any, noise: Any, i: Any, constants: Any) -> Any:
    """The multiplier of a kind that is known when compiling; where g = 0, in no direction."""


@overload(_multiplier, prefer_literal=True, jit_options=_INLINED)
def _(kind, g, e, noise, i, constants):
    function = _MULTIPLIERS[kind.literal_value]
    if kind.literal_value in (PBGS, ACOS, RANDOM):
        return lambda kind, g, e, noise, i, constants: function(g, e, noise, i, constants)
    return lambda kind, g, e, noise, i, constants: function(g, e, noise, i, constants) if g != ZERO else ONE


@njit(**_INLINED)
def _claim(job):
    """Take the next blocks: the first and the end, which are equal when none is left."""
    first = _fetch_add(job, job[CLAIM])
    return min(first, job[BLOCKS]), min(first + job[CLAIM], job[BLOCKS])


@njit(**_INLINED)
def _locate(job, block):
    """First element, end and grid of a block."""
    row, within = block // job[PER_LENGTH], block % job[PER_LENGTH] * job[BLOCK]
    start = row * job[LENGTH] + within
    return start, start + min(job[BLOCK], job[LENGTH] - within), row % job[COLUMNS]


@njit(**_INLINED)
def _grid(grids, columns, column):
    """Step, lower and upper."""
    return grids[column], grids[columns + column], grids[2 * columns + column]


@njit(**_INLINED)
def _constants(job):
    """Those of the scaler."""
    c = _pointer(job[CONSTANTS], np.float32)
    return c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12], c[13], c[14], c[15]


def _backward_one(*arguments: Any) -> None:
    """Store dx of element i, and add its terms of the sums that are asked for to their lane (G1)."""


@overload(_backward_one, prefer_literal=True, jit_options=_INLINED)
def _(kind, sums, storage, x, grad, noise, out, i, grid, constants, lanes, lane):
    multiplier = _MULTIPLIERS[kind.literal_value]
    with_step, with_lower, with_upper = (bool(sums.literal_value & one) for one in (STEP_SUM, LOWER_SUM, UPPER_SUM))

    def one(kind, sums, storage, x, grad, noise, out, i, grid, constants, lanes, lane):
        number, g = _widen(_read(x, i)), _widen(_read(grad, i))
        v = _position(number, grid)
        s = multiplier(g, v - np.rint(v), noise, i, constants)
        scaled = g * s
        _write(out, i, _narrow(scaled if _clip(number, grid) == number else ZERO, storage))
        if with_step:
            lanes[lane] += g * (np.rint(v) - s * v)
        if with_lower:
            lanes[LANES + lane] += scaled if number < grid[1] else ZERO
        if with_upper:
            lanes[2 * LANES + lane] += scaled if number > grid[2] else ZERO

    return one


def _elementwise(storage: type, target: type, spread: bool) -> Callable:
    """Values, where `target` is the storage, or codes, where it is int32."""

    def elementwise(address):
        job = _pointer(address, np.int64)
        x, out = _pointer(job[X], storage), _pointer(job[OUT], target)
        grids, columns = _pointer(job[PARAMETERS], np.float32), job[COLUMNS]
        first, end = _claim(job)
        while first < end:
            for block in range(first, end):
                start, stop, own = _locate(job, block)
                if spread:
                    for row in range(start, stop, columns):
                        for j in range(min(columns, stop - row)):
                            grid = _grid(grids, columns, j)
                            rounded = np.rint(_position(_widen(x[row + j]), grid))
                            out[row + j] = _stored(rounded, grid[0], target)
                else:
                    grid = _grid(grids, columns, own)
                    for i in range(start, stop):
                        rounded = np.rint(_position(_widen(x[i]), grid))
                        out[i] = _stored(rounded, grid[0], target)
            first, end = _claim(job)

    return elementwise


def _backward(storage: type, kind: int, sums: int) -> Callable:
    """dx, and of each block, which has one grid, the sums of the other gradients: by lanes, over runs in float64.

    The sums of an only block are the result."""

    def backward(address):
        job = _pointer(address, np.int64)
        x, grad, out = _pointer(job[X], storage), _pointer(job[GRAD], storage), _pointer(job[OUT], storage)
        noise, partial = _pointer(job[NOISE], np.float32), _pointer(job[PARTIAL], np.float64)
        result = _pointer(job[RESULT], np.float32)
        grids, columns = _pointer(job[PARAMETERS], np.float32), job[COLUMNS]
        constants, blocks, lanes = _constants(job), job[BLOCKS], _lanes_on_stack()
        first, end = _claim(job)
        while first < end:
            for block in range(first, end):
                start, stop, own = _locate(job, block)
                grid = _grid(grids, columns, own)
                of_step = of_lower = of_upper = 0.0
                for run in range(start, stop, RUN):
                    for lane in range(3 * LANES):
                        lanes[lane] = ZERO
                    until = min(run + RUN, stop)
                    whole = until - (until - run) % LANES
                    for row in range(run, whole, LANES):
                        for ahead in range(row + AHEAD, row + AHEAD + LANES, LINE):
                            _prefetch(x, ahead)
                            _prefetch(grad, ahead)
                        for lane in range(LANES):
                            i = row + lane
                            _backward_one(kind, sums, storage, x, grad, noise, out, i, grid, constants, lanes, lane)
                    for lane in range(until - whole):
                        i = whole + lane
                        _backward_one(kind, sums, storage, x, grad, noise, out, i, grid, constants, lanes, lane)
                    for lane in range(LANES):
                        of_step += lanes[lane]
                        of_lower += lanes[LANES + lane]
                        of_upper += lanes[2 * LANES + lane]
                if not sums:
                    continue
                if blocks == 1:
                    result[0], result[1], result[2] = of_step, of_lower, of_upper
                else:
                    partial[block], partial[blocks + block], partial[2 * blocks + block] = of_step, of_lower, of_upper
            first, end = _claim(job)

    return backward


def _backward_by_column(storage: type, kind: int, sums: int) -> Callable:
    """dx, and of each block, whose rows have a grid per column, the sums of the other gradients by column."""

    def backward(address):
        job = _pointer(address, np.int64)
        x, grad, out = _pointer(job[X], storage), _pointer(job[GRAD], storage), _pointer(job[OUT], storage)
        noise, constants, lanes = _pointer(job[NOISE], np.float32), _constants(job), _lanes_on_stack()
        grids, columns = _pointer(job[PARAMETERS], np.float32), job[COLUMNS]
        plane = job[BLOCKS] * columns
        first, end = _claim(job)
        while first < end:
            for block in range(first, end):
                start, stop, _ = _locate(job, block)
                partial = _pointer(job[PARTIAL] + 8 * block * columns, np.float64)
                for q in range(3 if sums else 0):
                    for j in range(columns):
                        partial[q * plane + j] = 0.0
                for row in range(start, stop, columns):
                    width = min(columns, stop - row)
                    for left in range(0, width, LANES):
                        for lane in range(3 * LANES):
                            lanes[lane] = ZERO
                        count = min(LANES, width - left)
                        for lane in range(count):
                            j = left + lane
                            _backward_one(
                                kind,
                                sums,
                                storage,
                                x,
                                grad,
                                noise,
                                out,
                                row + j,
                                _grid(grids, columns, j),
                                constants,
                                lanes,
                                lane,
                            )
                        for q in range(3 if sums else 0):
                            for lane in range(count):
                                partial[q * plane + left + lane] += lanes[q * LANES + lane]
            first, end = _claim(job)

    return backward


def _fold() -> Callable:
    """The sums of all blocks: per channel, and over all channels, in the order of the elements, in float64."""

    def fold(address):
        job = _pointer(address, np.int64)
        partial, result = _pointer(job[PARTIAL], np.float64), _pointer(job[RESULT], np.float32)
        outer, channels, inner = job[FOLD_OUTER], job[CHANNELS], job[FOLD_INNER]
        for q in range(3):
            total = 0.0
            for channel in range(channels):
                own = 0.0
                for o in range(outer):
                    begin = ((q * outer + o) * channels + channel) * inner
                    for i in range(begin, begin + inner):
                        own += partial[i]
                if channels > 1:
                    result[3 + q * channels + channel] = own
                total += own
            result[q] = total

    return fold


def _multipliers(kind: int) -> Callable:
    """The multipliers of a scaler, from grad and, as x, the errors; all float32."""

    def multipliers(address):
        job = _pointer(address, np.int64)
        error, grad, out = _pointer(job[X], np.float32), _pointer(job[GRAD], np.float32), _pointer(job[OUT], np.float32)
        noise, constants = _pointer(job[NOISE], np.float32), _constants(job)
        first, end = _claim(job)
        while first < end:
            for block in range(first, end):
                start, stop, _ = _locate(job, block)
                for i in range(start, stop):
                    out[i] = _multiplier(kind, grad[i], error[i], noise, i, constants)
            first, end = _claim(job)

    return multipliers


class Loop(NamedTuple):
    """A compiled loop: `run(address of the job)`, and its own address, for callers in C."""

    run: Callable[[int], None]
    address: int
    owner: Any
    """What keeps the code in memory."""


_FACTORIES: dict[str, Callable[..., Callable]] = {
    "elementwise": _elementwise,
    "backward": _backward,
    "backward_by_column": _backward_by_column,
    "fold": _fold,
    "multipliers": _multipliers,
}


@cache
def loop(name: str, *constants: Any) -> Loop:
    """The loop of this name, for the constants that its factory takes; compiled, or loaded from Numba's cache."""
    function = _FACTORIES[name](*constants)
    try:
        compiled = cfunc(_SIGNATURE, cache=True, **_OPTIONS)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        compiled = cfunc(_SIGNATURE, **_OPTIONS)(function)  # no folder to write to: compiled by each process
    address: Any = compiled.address
    return Loop(ctypes.CFUNCTYPE(None, ctypes.c_int64)(address), address, compiled)
