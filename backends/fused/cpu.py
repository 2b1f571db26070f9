"""The fused kernels on the CPU: what the contract's functions hand to the compiled loops, and on how many threads.

Tensors that are dense in any order of dimensions (contiguous, channels-last, transposed) are taken as they lie in
memory; others are copied first.
"""

from __future__ import annotations

import ctypes
import math
import struct
import threading
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from backends.contract import (
    LARGEST_CODE,
    BackendUnavailableError,
    Gradients,
    Needs,
    Scaler,
    check_axis,
    check_like,
    check_noise,
    check_parameters,
)
from backends.fused import curves, loops, overlap, threads

CPU = torch.device("cpu")
STORAGE = {torch.float32: np.float32, torch.bfloat16: np.uint16}
"""The dtypes that it computes, and how the loops see them."""

BLOCK = 2**14
"""Elements of a block, about: what a thread takes at once, and what is summed on its own."""
SHORTEST_RUN = 64
"""Elements that follow each other on one grid, below which grids are laid out per element."""
NARROWEST_ROW = 256
"""Elements of a row with a grid per element, at least: shorter ones are repeated."""
CLAIMS = 256
"""Times, about, that threads come for blocks of a large tensor: few enough to read ahead, enough to share evenly."""
MOST_BLOCKS_OF_ROWS = 64
"""Each of them keeps sums per element of a row."""
CERTAIN_CODE = LARGEST_CODE / 2
"""A bound of fewer steps than this is allowed, whatever rounding to float32 does to it."""

_KINDS = {
    "ste": loops.STE,
    "pbgs": loops.PBGS,
    "ewgs": loops.EWGS,
    "acos": loops.ACOS,
    "tanh": loops.TANH,
    "invtanh": loops.INVTANH,
    "uniform_noise": loops.RANDOM,
    "gaussian_noise": loops.RANDOM,
}


def codes(x: Tensor, step: Any, lower: Any, upper: Any, *, axis: int | None = None) -> Tensor:
    """`rint(clip(x, lower, upper) / step)` as int32; see `backends.fused.codes`."""
    storage = STORAGE.get(x.dtype) or _refuse(x)
    work = _prepare(x, step, lower, upper, axis)
    result = torch.empty_like(work.x, dtype=torch.int32)
    work.run(loops.loop("elementwise", storage, np.int32, work.split.spread), result)
    return result


def forward(
    x: Tensor, step: Any, lower: Any, upper: Any, *, axis: int | None = None, out: Tensor | None = None
) -> Tensor:
    """`rint(clip(x, lower, upper) / step) * step`; see `backends.fused.forward`."""
    storage = STORAGE.get(x.dtype) or _refuse(x)
    work = _prepare(x, step, lower, upper, axis)
    result = torch.empty_like(work.x) if out is None else _destination(out, work.x)
    work.run(loops.loop("elementwise", storage, storage, work.split.spread), result)
    return result if out is None else _delivered(result, out)


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
    """The four gradients; see `backends.fused.backward`."""
    storage = STORAGE.get(x.dtype) or _refuse(x)
    kind, constants = _constants(scaler)
    if grad.shape != x.shape or not grad.is_cpu:
        check_like("grad", grad, x)
        _check_cpu("grad", grad)
    if noise is not None or kind == loops.RANDOM:
        check_noise(scaler, noise, x.shape)
        _check_cpu("noise", noise)
    if grad.dtype != x.dtype:
        wide = backward(grad.float(), x.float(), step, lower, upper, scaler=scaler, axis=axis, noise=noise, needs=needs)
        dx = wide.x.to(x.dtype) if out is None else _delivered(_destination(out, x).copy_(wide.x), out)
        return wide._replace(x=dx)
    work = _prepare(x, step, lower, upper, axis)
    split, grad = work.split, _laid_out_like(work.x, grad)
    noise = None if noise is None else _laid_out_like(work.x, noise.float())
    result = torch.empty_like(work.x) if out is None else _destination(out, work.x, grad, noise)
    asked = needs[0] * loops.STEP_SUM | needs[1] * loops.LOWER_SUM | needs[2] * loops.UPPER_SUM
    sums = _empty(3 if split.channels == 1 else 3 + 3 * split.channels, torch.float32) if asked else None
    folded = asked and (split.blocks != 1 or split.spread)
    partial = _empty(split.partial, torch.float64) if folded else None
    work.run(
        loops.loop("backward_by_column" if split.spread else "backward", storage, kind, asked),
        result,
        grad,
        noise,
        sums,
        partial,
        constants,
    )
    if folded:
        loops.loop("fold").run(_job.address)
    shaped: Iterable[Tensor | None]
    if sums is None:
        shaped = (None, None, None)
    elif work.grids is None and all(needs):
        shaped = sums.unbind()
    else:
        shaped = _shaped(sums, split.channels, (step, lower, upper), needs)
    return Gradients(result if out is None else _delivered(result, out), *shaped)


def multiplier(scaler: Scaler, grad: Tensor, error: Tensor, noise: Tensor | None = None) -> Tensor:
    """The multiplier s; see `backends.fused.multiplier`."""
    if grad.dtype not in STORAGE:
        _refuse(grad)
    check_noise(scaler, noise, grad.shape)
    _check_cpu("error", error)
    _check_cpu("noise", noise)
    kind, constants = _constants(scaler)
    g, e = (tensor.detach().resolve_neg().float() for tensor in (grad.contiguous(), error.expand_as(grad).contiguous()))
    work = _Work(e, _split(1, 1, g.numel()), None, (0.0, 0.0, 0.0))
    result = torch.empty_like(g)
    noise = None if noise is None else noise.resolve_neg().float().contiguous()
    work.run(loops.loop("multipliers", kind), result, g, noise, constants=constants)
    return result.to(grad.dtype)


class _Split(NamedTuple):
    """How the elements are divided among the grids, and into blocks."""

    spread: bool
    """Whether each element of a row has a grid of its own."""
    repeats: int
    """How often the channels are repeated in a row."""
    channels: int
    blocks: int
    partial: int
    """Sums of blocks."""
    fields: bytes
    """What a job says of it: its slots from `columns` on."""


@lru_cache(maxsize=1024)
def _split(outer: int, channels: int, inner: int) -> _Split:
    """The division of [outer, channels, inner] elements, in the order of memory.

    Runs of a channel that are long have one grid each, and are cut into blocks of `BLOCK`. Short ones are taken row by
    row, [channels * inner] or a few of these together, with a grid for each element of a row; a block is some rows.
    Sums of blocks are [blocks of a channel before, channels, blocks of it behind] in the order of memory, too.
    """
    elements = outer * channels * inner
    spread = elements > 0 and channels > 1 and outer > 1 and inner < SHORTEST_RUN
    if spread:
        repeats = min(outer, -(-NARROWEST_ROW // (channels * inner)))
        columns, length = repeats * channels * inner, elements
        rows = -(-elements // columns)
        block = columns * max(-(-BLOCK // columns), -(-rows // MOST_BLOCKS_OF_ROWS))
        blocks = per_length = -(-elements // block)
        before, behind = blocks * repeats, inner
    else:
        before, length = (1, elements) if channels == 1 else (outer, inner)
        repeats, columns, block = 1, channels, BLOCK
        per_length = behind = -(-length // BLOCK)
        blocks = before * channels * per_length
    claim = max(1, BLOCK // max(1, min(block, length)), blocks // CLAIMS)
    fields = (columns, length, block, per_length, blocks, claim, before, channels, behind)
    return _Split(spread, repeats, channels, blocks, 3 * before * channels * behind, struct.pack("=9q", *fields))


class _Job(threading.local):
    """The memory of a thread's current job."""

    LAYOUT = struct.Struct(f"=9q72s3f{4 * loops.CONSTANTS_OF_JOB}s")
    GRID = 8 * loops.SLOTS
    CONSTANTS = GRID + 12

    def __init__(self) -> None:
        self.memory = ctypes.create_string_buffer(self.LAYOUT.size)
        self.address = ctypes.addressof(self.memory)


_job = _Job()
_fill = _Job.LAYOUT.pack_into


class _Work(NamedTuple):
    """What a loop is run on."""

    x: Tensor
    """As given, or a dense copy."""
    split: _Split
    grids: Tensor | None
    """float32 [3, columns], unless there is one grid."""
    grid: tuple[float, float, float]

    def run(
        self,
        loop: loops.Loop,
        out: Tensor,
        grad: Tensor | None = None,
        noise: Tensor | None = None,
        sums: Tensor | None = None,
        partial: Tensor | None = None,
        constants: bytes = b"",
    ) -> None:
        """Fill in the job, and run the loop on it."""
        x, split, grids, grid = self
        address = _job.address
        _fill(
            _job.memory,
            0,
            0,
            x.data_ptr(),
            0 if grad is None else grad.data_ptr(),
            0 if noise is None else noise.data_ptr(),
            out.data_ptr(),
            address + _Job.GRID if grids is None else grids.data_ptr(),
            address + _Job.CONSTANTS,
            0 if partial is None else partial.data_ptr(),
            0 if sums is None else sums.data_ptr(),
            split.fields,
            *grid,
            constants,
        )
        threads.run(loop, address, x.numel())


def _prepare(x: Tensor, step: Any, lower: Any, upper: Any, axis: int | None) -> _Work:
    """x and the parameters as the loops take them, checked (Q5-Q7)."""
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) or _order(x) is not None
    if not dense or x.is_neg():
        x = x.detach().clone()  # without gaps, laid out as `empty_like` has it
    numbers = []
    for value in (step, lower, upper):
        if isinstance(value, Tensor):
            if value.ndim or not value.is_cpu:
                return _prepare_channels(x, {"step": step, "lower": lower, "upper": upper}, axis)
            value = value.item()
        numbers.append(float(value))
    if axis is not None:
        check_axis(axis, x.shape)
    s, low, high = numbers
    # Only what lies far from every limit of Q6, rounding to float32 included, is spared the exact check.
    if not (1e-30 < s < 1e30 and -s * CERTAIN_CODE < low <= 0 <= high < s * CERTAIN_CODE):
        check_parameters(step=s, lower=low, upper=high)
    return _Work(x, _split(1, 1, x.numel()), None, (s, low, high))


def _prepare_channels(x: Tensor, given: dict[str, Any], axis: int | None) -> _Work:
    """The same where a parameter has one number per channel; one that is not on the CPU is refused."""
    for value in given.values():
        _check_cpu("a parameter", value)
    numbers = {name: value for name, value in given.items() if not isinstance(value, Tensor) or not value.ndim}
    if numbers:
        check_parameters(**numbers)
    axis = check_axis(axis, x.shape, **{name: value.shape for name, value in given.items() if name not in numbers})
    order = _order(x) or []
    sizes = [x.shape[dimension] for dimension in order]
    place = order.index(axis)  # type: ignore[arg-type]
    outer, channels, inner = math.prod(sizes[:place]), sizes[place], math.prod(sizes[place + 1 :])
    split = _split(outer, channels, inner)
    grids = torch.stack([_column(value, channels) for value in given.values()])
    if split.spread:
        grids = grids.repeat_interleave(inner, 1).repeat(1, split.repeats)
    return _Work(x, split, grids, (0.0, 0.0, 0.0))


def _column(value: Any, channels: int) -> Tensor:
    """A parameter as one float32 number per channel."""
    if not isinstance(value, Tensor) or not value.ndim:
        number = value.item() if isinstance(value, Tensor) else value
        return torch.full((channels,), float(number), dtype=torch.float32, device=CPU)
    value = value.detach() if torch.is_grad_enabled() else value
    return value if value.dtype == torch.float32 else value.float()


def _refuse(x: Tensor) -> NoReturn:
    """Raise for a dtype that the loops do not compute."""
    if x.dtype in (torch.float16, torch.float64):
        message = f"backend 'fused' computes float32 and bfloat16, not {x.dtype}: ask for 'eager'"
        raise BackendUnavailableError(message)
    raise TypeError(f"expected float32 or bfloat16, got {x.dtype}")


@lru_cache(maxsize=256)
def _constants(scaler: Scaler) -> tuple[int, bytes]:
    """Kind and constants of a scaler; factor is delta, times the further factor of the normalised form (S1)."""
    try:
        kind = _KINDS[scaler.name]
    except KeyError:
        message = f"backend 'fused' has no kernel for the registered scaler {scaler.name!r}: ask for 'eager'"
        raise BackendUnavailableError(message) from None
    factor, alpha = scaler.delta, scaler.alpha or 0.0
    if scaler.form == "normalised" and kind in (loops.ACOS, loops.TANH):
        factor *= 0.5
    elif scaler.form == "normalised" and kind == loops.INVTANH:
        factor *= 0.5 / math.atanh(alpha / 2)
    constants = [factor, alpha]
    quotient = curves.quotient(scaler.name, alpha, factor) if kind in (loops.TANH, loops.INVTANH) else None
    if quotient:
        kind, constants = loops.RATIONAL[quotient.degree], quotient.constants(factor, loops.HIGHEST_DEGREE + 1)
    return kind, np.asarray(constants, dtype=np.float32).tobytes()


def _order(x: Tensor) -> list[int] | None:
    """The dimensions as they lie in memory, outermost first; None where x has gaps or overlaps."""
    if x.is_contiguous():
        return list(range(x.ndim))
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    expected = 1
    for dimension in reversed(order):
        if x.shape[dimension] != 1:
            if x.stride(dimension) != expected:
                return None
            expected *= x.shape[dimension]
    return order


def _empty(elements: int, dtype: torch.dtype) -> Tensor:
    """Memory for sums, whatever the dtype and the device that torch makes tensors with by default."""
    return torch.empty(elements, dtype=dtype, device=CPU)


def _same_layout(x: Tensor, other: Tensor) -> bool:
    """Whether the same place in memory holds the same element of x, which turns no signs, and of `other`."""
    alike = (x.is_contiguous() and other.is_contiguous()) or x.stride() == other.stride()
    return alike and not other.is_neg()


def _laid_out_like(x: Tensor, other: Tensor) -> Tensor:
    """`other`, copied where its elements lie in another order than those of x."""
    return other if _same_layout(x, other) else torch.empty_like(x, dtype=other.dtype).copy_(other.detach())


def _destination(out: Tensor, x: Tensor, *read: Tensor | None) -> Tensor:
    """Where the loop writes: `out`, if it lies as x does, and apart from what is read; or else a new tensor."""
    check_like("out", out, x)
    _check_cpu("out", out)
    usable = _same_layout(x, out) and not any(overlap(out, each) for each in (x, *read))
    return out if usable else torch.empty_like(x)


def _delivered(result: Tensor, out: Tensor) -> Tensor:
    """The result, in `out`; autograd is told of the writing that it did not see."""
    if result is not out:
        out.detach().copy_(result)
    increment_version(out)
    return out


def _check_cpu(name: str, value: Any) -> None:
    """Raise `ValueError` for a tensor on another device, whose memory the loops cannot reach."""
    if isinstance(value, Tensor) and not value.is_cpu:
        raise ValueError(f"{name} is on {value.device}, expected the device of x, cpu")


def _shaped(sums: Tensor, channels: int, parameters: tuple[Any, ...], needs: Needs) -> Iterator[Tensor | None]:
    """Each sum that is needed, in the shape of its parameter: over all, or per channel."""
    for index in range(3):
        parameter = parameters[index]
        if not needs[index]:
            yield None
        elif not isinstance(parameter, Tensor) or not parameter.ndim:
            yield sums[index]
        elif channels == 1:
            yield sums[index : index + 1]
        else:
            yield sums[3 + index * channels : 3 + (index + 1) * channels]
