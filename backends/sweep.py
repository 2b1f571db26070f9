"""`python -m backends.sweep`: a backend against the reference on every float32 and every bfloat16 number.

All 2**32 (2**16) bit patterns go through each setting: every bit-width, signed and unsigned, with ordinary steps and
with steps chosen to hurt. Codes and values that differ are counted; zeros compare as values and any NaN equals any
NaN (contract Q4, Q5). The outcome is a JSON file, written after each setting; running again goes on from there, as long
as the code of the backend, of the reference and of this module, and the machine, are the same.

The reference need not see every number. Clip, the correctly rounded division by a positive step and rounding never
decrease, so its codes do not either: where each begins, found by bisection, tells all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backends import get, reference

BIT_WIDTHS = (2, 3, 4, 5, 6, 7, 8)
ORDINARY = (1.0, 0.1, 0.0123, 7.77)
HARD = {
    "a third": 1 / 3,
    "below a power of two": float(np.nextafter(np.float32(0.25), np.float32(0))),
    "above a power of two": float(np.nextafter(np.float32(0.25), np.float32(1))),
    "huge": 1e36,
    "smallest normal": float(np.finfo(np.float32).tiny),
    "subnormal": 3e-39,
    "smallest subnormal": float(np.finfo(np.float32).smallest_subnormal),
}
CHUNK = {"cpu": 2**16, "cuda": 2**26}
"""Numbers at a time, by type of device: so few that they stay in a core's cache, so many that a GPU is busy."""
PLACES = {"float32": torch.int32, "bfloat16": torch.int16}
"""By dtype, the integers of its width: the places of its numbers, put in order, around that of 0."""
ON_CPU = ("fused/cpu.py", "fused/loops.py", "fused/curves.py", "fused/threads.py")
DEFAULT_OUT = Path("benchmarks/sweep.json")


@dataclass(frozen=True)
class Setting:
    """A quantizer whose codes are q_min..q_max; `beyond` moves both ends of the range outwards by a part of a step."""

    dtype: str
    bits: int
    signed: bool
    step: float
    beyond: float = 0.0

    @property
    def parameters(self) -> tuple[float, float, float]:
        """`step, lower, upper`, rounded to float32.

        >>> Setting("float32", bits=2, signed=True, step=0.5).parameters
        (0.5, -1.0, 0.5)
        """
        q_min = -(2 ** (self.bits - 1)) if self.signed else 0
        q_max = q_min + 2**self.bits - 1
        ends = ((q_min - self.beyond * self.signed) * self.step, (q_max + self.beyond) * self.step)
        return self.step, *(float(np.float32(end)) for end in ends)  # type: ignore[return-value]


@dataclass(frozen=True)
class Outcome:
    """How many of the inputs have another code, or another value, than the reference says."""

    setting: Setting
    inputs: int
    codes: int
    values: int
    seconds: float


def settings(bit_widths: Iterable[int]) -> list[Setting]:
    """Every setting of these widths: all steps, and a range that ends on a tie as a learned one may."""
    grids = [(step, 0.0) for step in (*ORDINARY, *HARD.values())] + [(0.1, 0.5)]
    return [
        Setting(dtype, bits, signed, float(np.float32(step)), beyond)
        for bits in bit_widths
        for signed in (True, False)
        for step, beyond in grids
        for dtype in PLACES
    ]


class Level(NamedTuple):
    """The reference's code and value of all numbers from place `first` up to the next level's."""

    first: int
    code: int
    value: float


def sweep(setting: Setting, backend: str, device: str = "cpu") -> Outcome:
    """Count differing codes and values over all numbers of the dtype.

    >>> sweep(Setting("bfloat16", bits=4, signed=True, step=0.1), "eager").values
    0
    """
    module, start = get(backend, device), time.perf_counter()
    width, chunk = PLACES[setting.dtype], CHUNK[torch.device(device).type]
    inputs = codes = values = 0
    for level, following in pairwise([*levels(setting), Level(torch.iinfo(width).max + 1, 0, 0.0)]):
        for first in range(level.first, following.first, chunk):
            last = min(first + chunk, following.first)
            x = numbers(torch.arange(first, last, dtype=width, device=device))
            inputs += x.numel()
            codes += _differing(module.codes(x, *setting.parameters), level.code)
            values += _differing(module.forward(x, *setting.parameters), level.value)
    return Outcome(setting, inputs, codes, values, round(time.perf_counter() - start, 1))


def numbers(places: Tensor) -> Tensor:
    """Those at these places (int32: of float32, int16: of bfloat16) of NaN, -infinity to -0, 0 to infinity, NaN.

    >>> numbers(torch.tensor([-2, -1, 0, 1], dtype=torch.int32))
    tensor([-1.4013e-45, -0.0000e+00,  0.0000e+00,  1.4013e-45])
    """
    [dtype] = (getattr(torch, name) for name, width in PLACES.items() if width == places.dtype)
    limits = torch.iinfo(places.dtype)
    return (places ^ (places >> limits.bits - 1 & limits.max)).view(dtype)


def levels(setting: Setting) -> list[Level]:
    """Every level of the reference, in the order of its numbers; the first and the last is that of NaN.

    >>> [(level.code, level.value) for level in levels(Setting("bfloat16", bits=2, signed=True, step=0.5))]
    [(-2147483648, nan), (-2, -1.0), (-1, -0.5), (0, -0.0), (1, 0.5), (-2147483648, nan)]
    """
    width = PLACES[setting.dtype]
    infinity = int(torch.tensor(torch.inf, dtype=getattr(torch, setting.dtype)).view(width))
    lowest, highest = -infinity - 1, infinity
    q_min, q_max = _reference(torch.tensor([lowest, highest]), setting)[0].tolist()
    code = torch.arange(q_min + 1, q_max + 1)
    below, reached = torch.full_like(code, lowest), torch.full_like(code, highest)
    while (reached - below > 1).any():
        middle = (below + reached) // 2
        up = _reference(middle, setting)[0] >= code
        below, reached = torch.where(up, below, middle), torch.where(up, middle, reached)
    firsts = [torch.iinfo(width).min, lowest, *reached.tolist(), highest + 1]
    codes, values = _reference(torch.tensor(firsts), setting)
    return [Level(*level) for level in zip(firsts, codes.tolist(), values.tolist(), strict=True)]


def _reference(places: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """Codes and values of the numbers at these places, with the one cast back (Q5)."""
    x = numbers(places.to(PLACES[setting.dtype]))
    codes, values = (
        torch.from_numpy(function(x.float().numpy(), *setting.parameters))
        for function in (reference.codes, reference.forward)
    )
    return codes, values.to(x.dtype)


def _differing(ours: Tensor, expected: float) -> int:
    """How many are not what is expected of all: none where the least and the largest are."""
    if all(bound == expected for bound in ours.aminmax()):
        return 0
    return int(torch.count_nonzero(ours != expected if expected == expected else ~ours.isnan()))


def run(todo: list[Setting], backend: str, device: str, workers: int) -> Iterator[Outcome]:
    """Outcomes in the order in which they are done, `workers` processes of one thread each."""
    for library in ("OMP", "MKL", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = "1"  # for the workers: their torch and Numba are yet to be imported
    with get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_Task(backend, device), todo)


@dataclass(frozen=True)
class _Task:
    backend: str
    device: str

    def __call__(self, setting: Setting) -> Outcome:
        return sweep(setting, self.backend, self.device)


def sources(backend: str, device: str) -> str:
    """SHA-256 over the code of backend, reference, contract and this module: outcomes are good for these alone."""
    folder = Path(__file__).parent
    files = {*folder.glob(f"{backend}.py"), *folder.glob(f"{backend}/*.py"), folder / "contract.py"}
    files |= {folder / "reference.py", Path(__file__)}
    elsewhere = ("fused/cuda.py",) if device == "cpu" else ON_CPU
    own = sorted(files.difference(map(folder.joinpath, elsewhere)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in own)).hexdigest()


def machine(device: str) -> dict[str, str]:
    """What the outcome was computed on and with."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    known = {"cpu": models[0].partition(": ")[2] if models else platform.processor()}
    on_gpu = torch.device(device).type == "cuda"
    known |= {"gpu": torch.cuda.get_device_name(device)} if on_gpu else {}
    return known | {package: version(package) for package in ("numpy", "torch", "triton" if on_gpu else "numba")}


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 where nothing differs, 1 where something does, 2 where the outcomes in the file are others'."""
    parser = argparse.ArgumentParser(prog="python -m backends.sweep", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bits", type=int, nargs="+", choices=BIT_WIDTHS, default=BIT_WIDTHS, help="only these widths")
    parser.add_argument("--dtype", choices=PLACES, nargs="+", default=list(PLACES), help="only these dtypes")
    parser.add_argument("--backend", default="fused", help="the backend to judge (default: fused)")
    parser.add_argument("--device", default="cpu", help="where it computes (default: cpu)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"outcome (default: {DEFAULT_OUT})")
    chosen = parser.parse_args(arguments)
    header = {
        "backend": chosen.backend,
        "device": chosen.device,
        "sources": sources(chosen.backend, chosen.device),
        **machine(chosen.device),
    }
    done = _read(chosen.out, header)
    if done is None:
        remedy = "give another file by --out, or delete this one to start anew"
        print(f"{chosen.out}: made by other code, or on another machine: {remedy}", file=sys.stderr)
        return 2
    asked = [setting for setting in settings(chosen.bits) if setting.dtype in chosen.dtype]
    todo = [setting for setting in asked if setting not in done]
    start = time.monotonic()
    for count, outcome in enumerate(run(todo, chosen.backend, chosen.device, chosen.workers), start=1):
        done[outcome.setting] = outcome
        _write(chosen.out, header, done)
        left = (time.monotonic() - start) / count * (len(todo) - count) / 60
        print(f"{count} of {len(todo)}, {left:.0f} min left: {_sentence([outcome])}", file=sys.stderr, flush=True)
    outcomes = [done[setting] for setting in asked]
    print(_sentence(outcomes))
    return int(any(outcome.codes or outcome.values for outcome in outcomes))


def _sentence(outcomes: list[Outcome]) -> str:
    inputs, codes, values = (sum(getattr(o, name) for o in outcomes) for name in ("inputs", "codes", "values"))
    where = asdict(outcomes[0].setting) if len(outcomes) == 1 else f"{len(outcomes)} settings"
    return f"{where}: {inputs} inputs, {codes} differing codes, {values} differing values"


def _read(path: Path, header: dict[str, str]) -> dict[Setting, Outcome] | None:
    """Outcomes in the file, if there is one; None where they are of other code, or of another machine."""
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    if any(content.get(key) != value for key, value in header.items()):
        return None
    outcomes = [Outcome(**row | {"setting": Setting(**row["setting"])}) for row in content["outcomes"]]
    return {outcome.setting: outcome for outcome in outcomes}


def _write(path: Path, header: dict[str, str], done: dict[Setting, Outcome]) -> None:
    """The old file or the new one, never half of one; a line per setting."""
    order = {setting: index for index, setting in enumerate(settings(BIT_WIDTHS))}
    rows = [asdict(done[setting]) for setting in sorted(done, key=order.__getitem__)]
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in header.items())
    body = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(f'{{\n{head} "outcomes": [\n{body}\n ]\n}}\n')
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
