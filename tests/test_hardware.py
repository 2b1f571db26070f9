"""Where a record says it comes from."""

import subprocess
from pathlib import Path

from repro import hardware


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_a_checkout_is_clean_until_its_code_changes(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    head, dirty = hardware.commit(tmp_path)
    assert len(head) == 40
    assert not dirty
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "record.json").touch()
    (tmp_path / "file").write_text("b")
    assert hardware.commit(tmp_path) == (head, False)
    (tmp_path / "repro").mkdir()
    (tmp_path / "repro" / "module.py").touch()
    assert hardware.commit(tmp_path) == (head, True)


def test_code_outside_a_checkout_counts_as_changed(tmp_path: Path) -> None:
    assert hardware.commit(tmp_path) == ("unknown", True)


def test_versions_are_those_that_can_change_a_result() -> None:
    assert {"python", "numpy", "torch"} <= hardware.versions().keys()
    assert hardware.cores()
    assert hardware.cpu()
