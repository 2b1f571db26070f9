"""Versions, hardware and commit, as every record holds them and `python -m repro env` prints them."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""The checkout that this code runs from."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
"""Environment in which every numeric library keeps to one thread."""
MEMORY_KEPT = {"MALLOC_MMAP_THRESHOLD_": f"{2**25}", "MALLOC_TRIM_THRESHOLD_": f"{2**34}"}
"""Environment in which glibc keeps what a process frees: the next step of a training wants it again, and the kernel
gives it page by page. Not so blocks of more than 32 MiB, the largest bound that every version of it takes. Other C
libraries know neither name."""
CODE = ("repro", "backends", "pyproject.toml")
"""What records are made by."""
FOLDER_OPTIONS = ("--out", "--data-root")

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "triton",
    "numba",
    "numpy",
    "scipy",
    "av",
    "onnx",
    "onnxruntime",
    "onnxscript",
)


def versions() -> dict[str, str]:
    """Version of Python and of every installed package that can change a result; imports none of them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cpu() -> str:
    """Model name of the processor."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu() -> str | None:
    """Names of the NVIDIA devices, from the driver's own tool; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    answer = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return ", ".join(sorted(set(answer.splitlines()))) if answer else None


def cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def commit(root: Path = ROOT) -> tuple[str, bool]:
    """Commit of the checkout and whether its code has uncommitted changes; ("unknown", True) outside a checkout."""
    head = _output("git", "-C", str(root), "rev-parse", "HEAD")
    changes = _output("git", "--no-optional-locks", "-C", str(root), "status", "--porcelain", "--", *CODE)
    if head is None or changes is None:
        return "unknown", True
    return head.strip(), bool(changes.strip())


@cache
def provenance() -> Mapping[str, Any]:
    """What a record says about the code and the machine that made it, as it was when this process first asked."""
    head, dirty = commit()
    words = command(sys.argv[1:])
    return {"commit": head, "dirty": dirty, "command": words, "versions": versions(), "cpu": cpu(), "gpu": gpu()}


def command(arguments: Sequence[str]) -> str:
    """The command line that a record keeps, without the folders of the machine it was given on.

    >>> command(["table1", "--scale", "cpu", "--out", "/mnt/a", "--data-root=/mnt/b"])
    'python -m repro table1 --scale cpu --out FOLDER --data-root=FOLDER'
    """
    words = ["python", "-m", "repro"]
    for word in arguments:
        name, equals, _ = word.partition("=")
        if words[-1] in FOLDER_OPTIONS:
            word = "FOLDER"
        elif equals and name in FOLDER_OPTIONS:
            word = f"{name}=FOLDER"
        words.append(word)
    return shlex.join(words)


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
