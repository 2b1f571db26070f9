"""The data root, atomic writing, sources in order."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from repro import datasets
from repro.datasets import files
from repro.errors import ReproError, UsageError


class TestRoot:
    @pytest.fixture(autouse=True)
    def nothing_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REPRO_DATA", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/users/me")

    def test_the_argument_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REPRO_DATA", "/elsewhere")
        assert datasets.root("/data") == Path("/data")
        assert datasets.root("~/data") == Path("/users/me/data")

    def test_then_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
        monkeypatch.setenv("REPRO_DATA", "~/elsewhere")
        assert datasets.root() == Path("/users/me/elsewhere")

    def test_then_the_cache_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert datasets.root() == Path("/users/me/.cache/repro")
        monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
        assert datasets.root() == Path("/cache/repro")

    @pytest.mark.parametrize("name", ["REPRO_DATA", "XDG_CACHE_HOME"])
    def test_an_empty_variable_counts_as_none(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "")
        assert datasets.root() == Path("/users/me/.cache/repro")


def test_the_home_of_nobody_is_a_line() -> None:
    with pytest.raises(ReproError, match=r"~nobody-here/data: no such home; name another folder by --data-root"):
        files.root("~nobody-here/data")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_reason_of_a_failed_program_is_the_message_of_its_traceback(tmp_path: Path) -> None:
    code = "raise ConnectionError('no such host')"
    with pytest.raises(files.SourceError, match=r"^ConnectionError: no such host$"):
        files.run([sys.executable, "-c", code], tmp_path)
    with pytest.raises(files.SourceError, match=r"^exit code 4$"):
        files.run([sys.executable, "-c", "raise SystemExit(4)"], tmp_path)
    with pytest.raises(files.SourceError, match="No such file"):
        files.run(["no-such-program"], tmp_path)


def test_the_first_source_that_works_is_the_last_one_tried() -> None:
    tried = []

    def source(name: str, works: bool) -> None:
        tried.append(name)
        if not works:
            raise files.SourceError("away")

    said: list[str] = []
    sources = {name: lambda name=name: source(name, name == "b") for name in "abc"}
    files.first_of("it", sources, "remedy", said.append)
    assert tried == ["a", "b"]
    assert said == ["a: away"]
    with pytest.raises(ReproError, match=r"^no source gave it \(a: away\): remedy$"):
        files.first_of("it", {"a": sources["a"]}, "remedy", said.append)


def test_every_data_set_is_described_and_unknown_names_suggest_the_nearest() -> None:
    for name in datasets.NAMES:
        described = datasets.describe(name)
        assert described.name == name
        assert described.sources
        assert described.megabytes > 0
    with pytest.raises(UsageError, match=r"'cifar-10': did you mean cifar10\?"):
        datasets.fetch("cifar-10")
