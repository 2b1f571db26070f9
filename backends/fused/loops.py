"""The loops of the CPU kernels: one pass each over blocks that threads claim, compiled by Numba on first use.

A loop is a C function of one argument, the address of a job: `SLOTS` integers of 64 bits (sizes, and addresses of
arrays) and then the float32 numbers that the job needs. Everything that a loop is made of stands in this file, because
Numba's cache notices no change of another one.

Results do not depend on the number of threads, nor on the width of the processor's vectors: blocks are those of the
job, and within one each sum runs in `LANES` float32 lanes over at most `RUN` elements, then in float64.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
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
    "constants",  # float32 [2]: factor and alpha of the scaler
    "partial",  # float64 [3, fold_outer, channels, fold_inner]: sums of the blocks; of step, lower, upper
    "result",  # float32 [3], and [3, channels] behind it where there are several: the sums
    "kind",  # the scaler, where it is not known when compiling
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
(NEXT, X, GRAD, NOISE, OUT, PARAMETERS, CONSTANTS, PARTIAL, RESULT, KIND) = range(10)
(COLUMNS, LENGTH, BLOCK, PER_LENGTH, BLOCKS, CLAIM, FOLD_OUTER, CHANNELS, FOLD_INNER) = range(10, SLOTS)

STE, PBGS, EWGS, ACOS, TANH, INVTANH, RANDOM = range(7)
"""The curves: the scalers of the contract, and one for both noise controls."""

LANES = 32
RUN = 64 * LANES

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
_NAN_CODE = np.int32(NAN_CODE)

_SIGNATURE = types.void(types.int64)
_OPTIONS: dict[str, Any] = {"error_model": "numpy"}
"""No fast mathematics: divisions stay divisions (Q1), sums keep their order."""

_inlined = njit(forceinline=True, **_OPTIONS)


@intrinsic
def _pointer(typing_context, address, scalar):  # type: ignore[no-untyped-def]
    """The pointer to numbers of the type `scalar` (np.float32, ...) at an address."""
    result = types.CPointer(scalar.dtype)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, scalar), generate


@intrinsic
def _lanes_on_stack(typing_context):  # type: ignore[no-untyped-def]
    """A pointer to the float32 lanes of three sums, on the stack of the loop."""
    result = types.CPointer(types.float32)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array = cgutils.alloca_once(builder, ir.ArrayType(ir.FloatType(), 3 * LANES))
        array.align = 64
        return builder.bitcast(array, context.get_value_type(result))

    return result(), generate


@intrinsic
def _fetch_add(typing_context, pointer, value):  # type: ignore[no-untyped-def]
    """Add to an int64 that threads share; returns what it was."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.atomic_rmw("add", *arguments, "monotonic")

    return types.int64(pointer, types.int64), generate


@intrinsic
def _bits(typing_context, number):  # type: ignore[no-untyped-def]
    """The 32 bits of a float32 number, as an integer."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _from_bits(typing_context, bits):  # type: ignore[no-untyped-def]
    """The float32 number of the lowest 32 bits of an integer."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        lowest = arguments[0] if bits.bitwidth == 32 else builder.trunc(arguments[0], ir.IntType(32))
        return builder.bitcast(lowest, ir.FloatType())

    return types.float32(bits), generate


def _widen(number: Any) -> Any:
    """float32 of a stored number: float32, or bfloat16 as its 16 bits."""


def _narrow(number: Any, storage: Any) -> Any:
    """What is stored of a float32 number; bfloat16 rounds half to even, and any NaN becomes the quiet one (Q5)."""


def _stored(rounded: Any, step: Any, target: Any) -> Any:
    """The code or the value of rint(v); NaN has a code of its own (Q6)."""


@overload(_widen, jit_options={"forceinline": True})
def _(number):  # type: ignore[no-untyped-def]
    if number == types.uint16:
        return lambda number: _from_bits(np.uint32(number) << np.uint32(16))
    return lambda number: number


@overload(_narrow, jit_options={"forceinline": True})
def _(number, storage):  # type: ignore[no-untyped-def]
    if storage.dtype != types.uint16:
        return lambda number, storage: number

    def narrow(number, storage):  # type: ignore[no-untyped-def]
        bits = _bits(number)
        even = np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
        return np.uint16(0x7FC0) if number != number else np.uint16(even >> np.uint32(16))

    return narrow


@overload(_stored, jit_options={"forceinline": True})
def _(rounded, step, target):  # type: ignore[no-untyped-def]
    if target.dtype == types.int32:
        return lambda rounded, step, target: _NAN_CODE if rounded != rounded else np.int32(rounded)
    return lambda rounded, step, target: _narrow(rounded * step, target)


@_inlined
def _position(x, step, lower, upper):  # type: ignore[no-untyped-def]
    """v = clip(x) / step; a NaN is neither below nor above, and stays (Q1, Q3, Q6)."""
    c = lower if x < lower else x
    c = upper if c > upper else c
    return c / step


@_inlined
def _sin_pi(e):  # type: ignore[no-untyped-def]
    """sin(pi * e) for |e| <= 0.5: pi * e + e**3 * P(e**2), P of least relative error; off by at most 2**-22 of it."""
    z = e * e
    p = np.float32(-0.5993955731391907) + z * np.float32(0.07975195348262787)
    p = np.float32(-5.167720317840576) + z * (np.float32(2.5502634048461914) + z * p)
    return e * (np.float32(np.pi) + z * p)


@_inlined
def _tanh(x):  # type: ignore[no-untyped-def]
    """tanh(x) = (E - 1) / (E + 1), E = exp(2|x|) = 2**k * (1 + p), |log(1 + p)| <= log(2) / 2.

    E - 1 = 2**k * p + (2**k - 1) cancels nothing; p = expm1(r) by a polynomial. Off by at most 2**-22 of itself.
    """
    y = np.minimum(TWO * abs(x), np.float32(18.5))  # from here on tanh is 1
    shifted = y * np.float32(1 / np.log(2)) + np.float32(1.5 * 2**23)  # k in the lowest bits
    k = shifted - np.float32(1.5 * 2**23)
    power = _from_bits((_bits(shifted) << np.uint32(23)) + np.uint32(0x3F800000))
    r = y - k * np.float32(0.693359375) - k * np.float32(np.log(2) - 0.693359375)  # the first product is exact
    p = np.float32(0.04166720062494278) + r * (np.float32(0.008366580121219158) + r * np.float32(0.0013882509665563703))
    p = np.float32(0.4999999701976776) + r * (np.float32(0.1666654348373413) + r * p)
    p = power * (r + r * r * p)
    return np.copysign((p + (power - ONE)) / (p + (power + ONE)), x)


@_inlined
def _arctanh(x):  # type: ignore[no-untyped-def]
    """arctanh(x) for |x| < 1: half of log(q), q = (1 + |x|) / (1 - |x|) = 2**k * (1 + s) / (1 - s), |s| <= 0.2004.

    s = ((1 - 2**k) + (1 + 2**k) * |x|) / ((1 + 2**k) + (1 - 2**k) * |x|) is |x| itself where k = 0, so nothing is lost
    near 0; k is read off the exponents, and arctanh(s) = s + s**3 * P(s**2). Off by at most 2**-21 of itself.
    """
    y = abs(x)
    ratio = np.uint32(_bits(ONE + y) - _bits(ONE - y) + np.uint32(0x400000))
    power = _from_bits((ratio & np.uint32(0xFF800000)) + np.uint32(0x3F800000))
    k = np.float32(np.int32(ratio >> np.uint32(23)))
    s = ((ONE - power) + (ONE + power) * y) / ((ONE + power) + (ONE - power) * y)
    z = s * s
    p = np.float32(0.333334743976593) + z * (np.float32(0.1997869461774826) + z * np.float32(0.15184974670410156))
    return np.copysign(k * np.float32(np.log(2) / 2) + (s + s * z * p), x)


@_inlined
def _ste(g, e, noise, i, factor, alpha):  # type: ignore[no-untyped-def]
    return ONE


@_inlined
def _pbgs(g, e, noise, i, factor, alpha):  # type: ignore[no-untyped-def]
    return ONE + factor * abs(e)


@_inlined
def _ewgs(g, e, noise, i, factor, alpha):  # type: ignore[no-untyped-def]
    return ONE + _signed(factor, g) * e


@_inlined
def _acos(g, e, noise, i, factor, alpha):  # type: ignore[no-untyped-def]
    return ONE + factor * _sin_pi(e)


@_inlined
def _tanh_of_error(g, e, noise, i, factor, alpha):  # type: ignore[no-untyped-def]
    return ONE + _signed(factor, g) * _tanh(alpha * e)


@_inlined
def _invtanh(g, e, noise, i, factor, alpha):  # type: ignore[no-untyped-def]
    return ONE + _signed(factor, g) * _arctanh(alpha * e)


@_inlined
def _random(g, e, noise, i, factor, alpha):  # type: ignore[no-untyped-def]
    return ONE + factor * noise[i]


@_inlined
def _signed(factor, g):  # type: ignore[no-untyped-def]
    """factor * sign(g), sign(0) = 0."""
    return factor if g > ZERO else (-factor if g < ZERO else ZERO)


_MULTIPLIERS = (_ste, _pbgs, _ewgs, _acos, _tanh_of_error, _invtanh, _random)
"""The scaler table (S1), in the order of the kinds; `factor` is delta, times that of the normalised form."""


@_inlined
def _gradients(multiplier, storage, x, grad, noise, out, i, step, lower, upper, factor, alpha):  # type: ignore[no-untyped-def]
    """Of element i dx, which is stored, and the terms of dstep, dlower and dupper, which are returned (G1)."""
    number, g = _widen(x[i]), _widen(grad[i])
    v = _position(number, step, lower, upper)
    rounded = np.rint(v)
    s = multiplier(g, v - rounded, noise, i, factor, alpha)
    scaled = g * s
    out[i] = _narrow(scaled if (number >= lower) & (number <= upper) else ZERO, storage)
    return g * (rounded - s * v), scaled if number < lower else ZERO, scaled if number > upper else ZERO


@_inlined
def _add(lanes, lane, terms):  # type: ignore[no-untyped-def]
    lanes[lane] += terms[0]
    lanes[LANES + lane] += terms[1]
    lanes[2 * LANES + lane] += terms[2]


@_inlined
def _quantized(x, step, lower, upper, target):  # type: ignore[no-untyped-def]
    """The value of one element, or its code."""
    return _stored(np.rint(_position(x, step, lower, upper)), step, target)


@_inlined
def _claim(job):  # type: ignore[no-untyped-def]
    """Take the next blocks: the first and the end, which are equal when none is left."""
    first = _fetch_add(job, job[CLAIM])
    return min(first, job[BLOCKS]), min(first + job[CLAIM], job[BLOCKS])


@_inlined
def _locate(job, block):  # type: ignore[no-untyped-def]
    """First element, end and grid of a block."""
    row, within = block // job[PER_LENGTH], block % job[PER_LENGTH] * job[BLOCK]
    start = row * job[LENGTH] + within
    return start, start + min(job[BLOCK], job[LENGTH] - within), row % job[COLUMNS]


def _elementwise(storage: type, target: type, spread: bool) -> Callable:
    """Values, where `target` is the storage, or codes, where it is int32."""

    def elementwise(address):  # type: ignore[no-untyped-def]
        job = _pointer(address, np.int64)
        x, out = _pointer(job[X], storage), _pointer(job[OUT], target)
        grids, columns = _pointer(job[PARAMETERS], np.float32), job[COLUMNS]
        first, end = _claim(job)
        while first < end:
            for block in range(first, end):
                start, stop, grid = _locate(job, block)
                if spread:
                    for row in range(start, stop, columns):
                        for j in range(min(columns, stop - row)):
                            step, lower, upper = grids[j], grids[columns + j], grids[2 * columns + j]
                            out[row + j] = _quantized(_widen(x[row + j]), step, lower, upper, target)
                else:
                    step, lower, upper = grids[grid], grids[columns + grid], grids[2 * columns + grid]
                    for i in range(start, stop):
                        out[i] = _quantized(_widen(x[i]), step, lower, upper, target)
            first, end = _claim(job)

    return elementwise


def _backward_of_blocks(storage: type, kind: int) -> Callable:
    """dx, and of each block, which has one grid, the sums of the other gradients: by lanes, over runs in float64."""

    def backward(address):  # type: ignore[no-untyped-def]
        job, multiplier = _pointer(address, np.int64), _MULTIPLIERS[kind]
        x, grad, out = _pointer(job[X], storage), _pointer(job[GRAD], storage), _pointer(job[OUT], storage)
        noise, constants = _pointer(job[NOISE], np.float32), _pointer(job[CONSTANTS], np.float32)
        grids, partial = _pointer(job[PARAMETERS], np.float32), _pointer(job[PARTIAL], np.float64)
        factor, alpha, columns, blocks = constants[0], constants[1], job[COLUMNS], job[BLOCKS]
        lanes = _lanes_on_stack()
        first, end = _claim(job)
        while first < end:
            for block in range(first, end):
                start, stop, grid = _locate(job, block)
                step, lower, upper = grids[grid], grids[columns + grid], grids[2 * columns + grid]
                of_step = of_lower = of_upper = 0.0
                for run in range(start, stop, RUN):
                    until = min(run + RUN, stop)
                    for lane in range(3 * LANES):
                        lanes[lane] = ZERO
                    for row in range(run, until, LANES):
                        if until - row >= LANES:
                            for lane in range(LANES):
                                terms = _gradients(multiplier, storage, x, grad, noise, out, row + lane, step, lower, upper, factor, alpha)
                                _add(lanes, lane, terms)
                        else:
                            for lane in range(until - row):
                                terms = _gradients(multiplier, storage, x, grad, noise, out, row + lane, step, lower, upper, factor, alpha)
                                _add(lanes, lane, terms)
                    for lane in range(LANES):
                        of_step += lanes[lane]
                        of_lower += lanes[LANES + lane]
                        of_upper += lanes[2 * LANES + lane]
                partial[block], partial[blocks + block], partial[2 * blocks + block] = of_step, of_lower, of_upper
            first, end = _claim(job)

    return backward


def _backward_of_columns(storage: type, kind: int) -> Callable:
    """dx, and of each block, whose rows have one grid per column, the sums of the other gradients by columns."""

    def backward(address):  # type: ignore[no-untyped-def]
        job, multiplier = _pointer(address, np.int64), _MULTIPLIERS[kind]
        x, grad, out = _pointer(job[X], storage), _pointer(job[GRAD], storage), _pointer(job[OUT], storage)
        noise, constants = _pointer(job[NOISE], np.float32), _pointer(job[CONSTANTS], np.float32)
        grids, partial = _pointer(job[PARAMETERS], np.float32), _pointer(job[PARTIAL], np.float64)
        factor, alpha, columns, plane = constants[0], constants[1], job[COLUMNS], job[BLOCKS] * job[COLUMNS]
        lanes = _lanes_on_stack()
        first, end = _claim(job)
        while first < end:
            for block in range(first, end):
                start, stop, _ = _locate(job, block)
                for q in range(3):
                    for j in range(columns):
                        partial[q * plane + block * columns + j] = 0.0
                for row in range(start, stop, columns):
                    width = min(columns, stop - row)
                    for left in range(0, width, LANES):
                        count = min(LANES, width - left)
                        for lane in range(3 * LANES):
                            lanes[lane] = ZERO
                        for lane in range(count):
                            j = left + lane
                            step, lower, upper = grids[j], grids[columns + j], grids[2 * columns + j]
                            terms = _gradients(multiplier, storage, x, grad, noise, out, row + j, step, lower, upper, factor, alpha)
                            _add(lanes, lane, terms)
                        for q in range(3):
                            sums = q * plane + block * columns + left
                            for lane in range(count):
                                partial[sums + lane] += lanes[q * LANES + lane]
            first, end = _claim(job)

    return backward


def _fold() -> Callable:
    """The sums of all blocks: per channel, and over all channels, in the order of the elements, in float64."""

    def fold(address):  # type: ignore[no-untyped-def]
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
    """The multipliers of a scaler, from grad and, as x, the errors."""

    def multipliers(address):  # type: ignore[no-untyped-def]
        job, multiplier = _pointer(address, np.int64), _MULTIPLIERS[kind]
        error, grad, out = _pointer(job[X], np.float32), _pointer(job[GRAD], np.float32), _pointer(job[OUT], np.float32)
        noise, constants = _pointer(job[NOISE], np.float32), _pointer(job[CONSTANTS], np.float32)
        factor, alpha = constants[0], constants[1]
        for i in range(job[LENGTH]):
            out[i] = multiplier(grad[i], error[i], noise, i, factor, alpha)

    return multipliers


class Loop(NamedTuple):
    """A compiled loop: `run(address of the job)`, and its own address, for callers in C."""

    run: Callable[[int], None]
    address: int
    keeps: Any


_FACTORIES = {"elementwise": _elementwise, "backward_of_blocks": _backward_of_blocks, "backward_of_columns":_backward_of_columns, "fold": _fold, "multipliers": _multipliers}


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
    return Loop(ctypes.CFUNCTYPE(None, ctypes.c_int64)(compiled.address), compiled.address, compiled)
