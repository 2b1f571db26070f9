"""The picture of a table: every method has a panel, and what is not recorded says so."""

import pytest

from repro.adaptive import picture
from repro.evidence.records import Store
from repro.evidence.render import read_fingerprint
from repro.places import gather
from repro.targets import get
from tests.adaptive.test_claims import evidence

pytestmark = pytest.mark.usefixtures("coarse")


def test_records_of_table_1_as_a_picture(tmp_path) -> None:
    target = get("table1")
    png, svg = picture.draw(target.title, target.published, evidence(tmp_path / "records"), tmp_path / "table1")
    assert read_fingerprint(png) == read_fingerprint(svg)
    empty = gather(target, Store(tmp_path / "nothing"))
    other, _ = picture.draw(target.title, target.published, empty, tmp_path / "empty")
    assert read_fingerprint(other) != read_fingerprint(png)


def test_a_table_without_records_has_no_picture(tmp_path) -> None:
    target = get("table4")
    assert {path.suffix for path in target.render(gather(target, Store(tmp_path / "no")), tmp_path)} == {".csv", ".md"}
