"""The picture of a table: every method has a panel, and what is not recorded says so."""

import pytest

from repro.adaptive import picture
from repro.evidence.render import read_fingerprint
from repro.targets import get
from tests.adaptive.test_claims import kept
from tests.made_up import evidence

pytestmark = pytest.mark.usefixtures("coarse")


def test_records_of_table_1_as_a_picture(tmp_path) -> None:
    target = get("table1")
    png, svg = picture.draw(target.title, target.published, kept(), tmp_path / "table1")
    assert read_fingerprint(png) == read_fingerprint(svg)
    other, _ = picture.draw(target.title, target.published, evidence(target), tmp_path / "empty")
    assert read_fingerprint(other) != read_fingerprint(png)


def test_a_table_without_records_has_no_picture(tmp_path) -> None:
    target = get("table4")
    assert {path.suffix for path in target.render(evidence(target), tmp_path)} == {".csv", ".md"}
