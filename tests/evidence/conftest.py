"""Fixtures of the tests of evidence."""

from pathlib import Path

import pytest

from repro.evidence.records import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "records")
