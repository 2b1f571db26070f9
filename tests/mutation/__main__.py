"""`python -m tests.mutation`: does a test fail for every mutant of the fused kernels?

Each mutant takes the place of its module in a process of its own, forked from one in which all else is imported, and
the tests of the backends run there until one fails, for CUDA those in Triton's interpreter and of the machine code. The
outcome is `tests/mutation/<module>.json`; running again judges what is left or has survived, and everything where the
module has changed. `equivalent.toml` lists, with the reason, mutants that compute the same.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.mutation.mutants import Mutant, mutants

FOLDER = Path(__file__).parent
MODULES = {name: f"backends.fused.{name}" for name in ("loops", "cpu", "curves", "threads", "cuda")}
TESTS = ["test_forward.py", "test_backward.py", "test_scalers.py", "test_fused_cpu.py", "test_properties.py"]
FIRST = {
    "test_scalers.py": (
        "_multiplier",
        "_MULTIPLIERS",
        "_directed",
        "_turned",
        "_multipliers",
        "multiplier",
        "_constants",
    ),
    "test_fused_cpu.py": (
        "_sin_pi",
        "_tanh",
        "_arctanh",
        "_rational",
        "_polynomial",
        "_split",
        "_FUNCTIONS",
        "Quotient",
        "quotient",
        "_fit",
        "run",
        "team_size",
        "_mark_forked",
        "_forked",
    ),
    "test_backward.py": (
        "_clip",
        "_backward_one",
        "_backward",
        "_backward_by_column",
        "_fold",
        "backward",
        "_shaped",
    ),
}
"""The tests that know a function best; for all others it is the order above."""
OF_CUDA = ["test_fused_cuda.py"]
CHOSEN = "fused and not cuda and not Processes and not many_elements"
"""Without the tests that start processes or take long: they tell apart no mutant that the others do not, or it shows as
one that has survived."""
PASSED = "passed"
SECONDS, TIMES = 300, 5
"""A mutant that takes longer, and so many times longer than no mutant, has been noticed: it hangs."""


class FirstFailure:
    """A pytest plugin that remembers which test failed first."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid


@dataclass
class Trial:
    """A mutant under test in a process of its own."""

    mutant: Mutant
    process: int
    pipe: int
    folder: str
    deadline: float

    @classmethod
    def start(cls, module: str, mutant: Mutant, limit: float) -> Trial:
        folder = tempfile.mkdtemp()
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            _run_tests(module, mutant, folder, writer)
        os.close(writer)
        return cls(mutant, process, reader, folder, time.monotonic() + limit)

    def outcome(self) -> str | None:
        """ "killed by TEST", or "survived"; None while it runs."""
        ended = os.waitpid(self.process, os.WNOHANG) != (0, 0)
        if not ended and time.monotonic() < self.deadline:
            return None
        if not ended:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        shutil.rmtree(self.folder, ignore_errors=True)
        with os.fdopen(self.pipe) as pipe:
            said = pipe.read()
        if said == PASSED:
            return "survived"
        return f"killed by {said or ('a crash' if ended else 'time')}"


def trials(module: str, todo: list[Mutant], workers: int, seconds: float, limit: float) -> Iterator[tuple[Mutant, str]]:
    """Every mutant that can begin within this time, with its outcome, in the order in which they end.

    One that runs for longer than the limit is stopped.
    """
    waiting, running, start = todo[::-1], [], time.monotonic()
    while waiting or running:
        if time.monotonic() > start + seconds:
            waiting.clear()
        while waiting and len(running) < workers:
            running.append(Trial.start(module, waiting.pop(), limit))
        for trial in list(running):
            if found := trial.outcome():
                running.remove(trial)
                yield trial.mutant, found
        time.sleep(0.05)


def _run_tests(module: str, mutant: Mutant, folder: str, writer: int) -> None:
    """In the child: put the mutant in the place of the module, run the tests, say which one failed, and end."""
    with Path(os.devnull).open("w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
        if module == MODULES["loops"]:  # the original's compiled loops lie in the usual cache
            os.environ["NUMBA_CACHE_DIR"] = folder
        torch.set_num_threads(1)
        first = FirstFailure()
        try:
            _load(module, mutant.source, Path(folder, "mutant.py"))
            cuda = module == MODULES["cuda"]
            order = OF_CUDA if cuda else sorted(TESTS, key=lambda name: mutant.function not in FIRST.get(name, ()))
            paths = [f"tests/backends/{name}" for name in order]
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", "" if cuda else CHOSEN]
            code = pytest.main([*paths, *options], plugins=[first])
            said = PASSED if code == 0 else first.name or "an import"
        except BaseException as error:  # whatever it is, the mutant did it
            said = type(error).__name__
        os.write(writer, said.encode())
    os._exit(0)


def _load(name: str, source: str, file: Path) -> None:
    """Import a module of the fused backend from this source, kept in the file, and all others of it anew."""
    import numba

    numba.config.reload_config()
    file.write_text(source)
    for known in [known for known in sys.modules if known.startswith("backends.fused")]:
        del sys.modules[known]
    package, _, short = name.rpartition(".")
    module = ModuleType(name)
    module.__file__ = str(file)
    setattr(import_module(package), short, module)
    sys.modules[name] = module
    exec(compile(source, str(file), "exec"), vars(module))


def main() -> int:
    """0 where every mutant is killed or listed as equivalent, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("module", choices=MODULES, nargs="?", default="loops")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no other mutant after this long")
    chosen = parser.parse_args()
    name = MODULES[chosen.module]
    file = Path(import_module(name).__file__ or "")
    path = FOLDER / f"{chosen.module}.json"
    source = file.read_text()
    every, version = list(mutants(source)), hashlib.sha256(source.encode()).hexdigest()
    equivalent = _equivalent(chosen.module)
    outcomes = _known(path, version)
    todo = [
        mutant
        for mutant in every
        if chosen.only in mutant.name
        and not outcomes.get(mutant.name, "").startswith("killed")
        and mutant.name not in equivalent
    ]
    print(f"{len(every)} mutants of {name}, {len(todo)} to judge", file=sys.stderr, flush=True)
    if unknown := equivalent.keys() - {mutant.name for mutant in every}:
        parser.error(f"equivalent.toml: {chosen.module} has no mutant {min(unknown)!r}: remove it")
    control, began = Mutant("control", "", "", 0, 0, source), time.monotonic()
    for _, found in trials(name, [control] * bool(todo), 1, math.inf, math.inf):
        if found != "survived":
            parser.error(f"the tests fail without any change: {found}")
    limit = max(SECONDS, TIMES * (time.monotonic() - began))
    for count, (mutant, found) in enumerate(trials(name, todo, chosen.workers, 60 * chosen.minutes, limit), start=1):
        outcomes[mutant.name] = found
        _write(path, version, every, outcomes, equivalent)
        print(f"{count} of {len(todo)}, line {mutant.line}, {mutant.name}: {found}", file=sys.stderr, flush=True)
    _write(path, version, every, outcomes, equivalent)
    left = [m for m in every if m.name not in equivalent and not outcomes.get(m.name, "").startswith("killed")]
    print(f"{len(every)} mutants: {len(equivalent)} equivalent, {len(left)} not killed")
    return int(bool(left))


def _known(path: Path, version: str) -> dict[str, str]:
    """Outcomes of an earlier run on the same source."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if content.get("source") != version:
        return {}
    return {row["mutant"]: row["outcome"] for row in content["mutants"]}


def _equivalent(module: str) -> dict[str, str]:
    listed = tomllib.loads((FOLDER / "equivalent.toml").read_text())
    return listed.get(module, {})


def _write(path: Path, version: str, every: list[Mutant], outcomes: dict[str, str], equivalent: dict[str, str]) -> None:
    """One line per mutant, in the order of the source."""
    rows = []
    for mutant in every:
        reason = equivalent.get(mutant.name)
        found = f"equivalent: {reason}" if reason else outcomes.get(mutant.name, "not judged")
        rows.append({"mutant": mutant.name, "outcome": found})
    kinds = [row["outcome"].partition(":")[0].partition(" by ")[0] for row in rows]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path.write_text(f'{{\n "source": "{version}",\n "counts": {json.dumps(counts)},\n "mutants": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
