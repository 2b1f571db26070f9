"""What holds for the house as a whole: its floors, and that no tracked file names a machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = r"(?<![\w.])/(?:work|root|home|tmp)/\w"
MACHINE = re.compile(rf"{FOLDERS}|\b(?:pypi|npmjs|pythonhosted)\.org\b|\blocalhost\b")
TEXT = {".py", ".md", ".toml", ".csv", ".json", ".yml", ".svg", ""}


def test_nothing_imports_upward(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS


def test_the_examples_of_the_readme_are_true() -> None:
    command = [sys.executable, "-m", "doctest", "-o", "NORMALIZE_WHITESPACE", "README.md"]  # registers a scaler
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = [
        f"{name}: {match[0]}"
        for name in listed.stdout.splitlines()
        if Path(name).suffix in TEXT and (ROOT / name).is_file() and (ROOT / name) != Path(__file__)
        for match in MACHINE.finditer((ROOT / name).read_text("utf-8", errors="replace"))
    ]
    assert found == []
