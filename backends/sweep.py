"""`python -m backends.sweep`: a backend against the reference on every float32 and every bfloat16 number.

All 2**32 (2**16) bit patterns go through each setting: every bit-width, signed and unsigned, with ordinary steps and
with steps chosen to hurt. Codes and values that differ are counted; zeros compare as values and any NaN equals any
NaN (contract Q4, Q5). The outcome is a JSON file, written after each setting; running again goes on from there, as long
as the code of the backend and of this module, and the machine, are the same.

The reference takes four times as long as its arithmetic needs, for arrays that it makes on the way; `expected` is the
same few NumPy operations in place, and the tests hold it to the reference.
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
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from backends import get
from backends.contract import NAN_CODE

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
CHUNK = 2**16
"""Inputs compared at a time: small enough for a core's cache."""
INPUTS = {"float32": 2**32, "bfloat16": 2**16}
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
        for dtype in INPUTS
    ]


def sweep(setting: Setting, backend: str, device: str = "cpu", inputs: range | None = None) -> Outcome:
    """Count differing codes and values over the bit patterns `inputs`; all of the dtype without them.

    >>> sweep(Setting("bfloat16", bits=4, signed=True, step=0.1), "eager").values
    0
    """
    inputs = inputs or range(INPUTS[setting.dtype])
    start, codes, values = time.perf_counter(), 0, 0
    for first in range(inputs.start, inputs.stop, CHUNK):
        patterns = np.arange(first, min(first + CHUNK, inputs.stop), dtype=np.uint32)
        differing = _compare(patterns, setting, backend, device)
        codes, values = codes + differing[0], values + differing[1]
    return Outcome(setting, len(inputs), codes, values, round(time.perf_counter() - start, 1))


@np.errstate(invalid="ignore")
def expected(x: np.ndarray, step: float, lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values of float32 `x` (contract Q1-Q6).

    >>> expected(np.float32([-9.0, 0.25, 0.75]), 0.5, -1.0, 1.0)
    (array([-2,  0,  2], dtype=int32), array([-1.,  0.,  1.], dtype=float32))
    """
    rounded = np.maximum(x, np.float32(lower))
    np.minimum(rounded, np.float32(upper), out=rounded)
    np.divide(rounded, np.float32(step), out=rounded)
    np.rint(rounded, out=rounded)
    codes = rounded.astype(np.int32)
    codes[np.isnan(rounded)] = NAN_CODE
    return codes, np.multiply(rounded, np.float32(step), out=rounded)


def _compare(patterns: np.ndarray, setting: Setting, backend: str, device: str) -> tuple[int, int]:
    """Differing codes and values of one chunk. A bfloat16 is the upper half of a float32."""
    import torch

    module, dtype = get(backend, device), getattr(torch, setting.dtype)
    x = (patterns if setting.dtype == "float32" else patterns << 16).view(np.float32)
    codes, values = expected(x, *setting.parameters)
    values = torch.from_numpy(values).to(dtype).float().numpy()  # the one cast back (Q5)
    tensor = torch.from_numpy(x).to(device, dtype)
    ours_codes, ours = module.codes(tensor, *setting.parameters), module.forward(tensor, *setting.parameters)
    return _differing(ours_codes.cpu().numpy(), codes), _differing(ours.float().cpu().numpy(), values)


def _differing(ours: np.ndarray, theirs: np.ndarray) -> int:
    if np.array_equal(ours.view(np.int32), theirs.view(np.int32)):
        return 0
    return int(np.count_nonzero((ours != theirs) & ~(np.isnan(ours) & np.isnan(theirs))))


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
    """SHA-256 over the code of the backend, the contract and this module: outcomes are good for these alone."""
    folder = Path(__file__).parent
    files = {*folder.glob(f"{backend}.py"), *folder.glob(f"{backend}/*.py"), folder / "contract.py", Path(__file__)}
    elsewhere = ("fused/cuda.py",) if device == "cpu" else ON_CPU
    own = sorted(files.difference(map(folder.joinpath, elsewhere)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in own)).hexdigest()


def machine() -> dict[str, str]:
    """What the outcome was computed on and with."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    packages = {package: version(package) for package in ("numpy", "torch", "numba")}
    return {"cpu": models[0].partition(": ")[2] if models else platform.processor()} | packages


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 where nothing differs, 1 where something does, 2 where the outcomes in the file are others'."""
    parser = argparse.ArgumentParser(prog="python -m backends.sweep", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bits", type=int, nargs="+", choices=BIT_WIDTHS, default=BIT_WIDTHS, help="only these widths")
    parser.add_argument("--dtype", choices=INPUTS, nargs="+", default=list(INPUTS), help="only these dtypes")
    parser.add_argument("--backend", default="fused", help="the backend to judge (default: fused)")
    parser.add_argument("--device", default="cpu", help="where it computes (default: cpu)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"outcome (default: {DEFAULT_OUT})")
    chosen = parser.parse_args(arguments)
    header = {
        "backend": chosen.backend,
        "device": chosen.device,
        "sources": sources(chosen.backend, chosen.device),
        **machine(),
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
