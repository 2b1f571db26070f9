"""The picture of a table: every method has a panel, and what is not recorded says so."""

from dataclasses import replace

import pytest

from repro.adaptive import picture
from repro.adaptive.methods import METHODS
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


def test_every_method_has_a_panel_with_the_print_ours_and_individual() -> None:
    target = get("table1")
    printed = target.published
    panels = {
        axes.get_title("left"): axes for axes in picture.picture(target.title, printed, kept()).axes if axes.lines
    }
    panels = {title.replace("\n", " "): axes for title, axes in panels.items()}
    assert list(panels) == [method.title for method in METHODS.values()]
    for method in METHODS:
        axes = panels[METHODS[method].title]
        lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        if METHODS[method].origin:
            assert "published" not in lines
        else:
            assert lines["published"] == [float(printed.cell(method, bits)) for bits in printed.bits]
        assert ("Individual, cpu scale" in lines) == (method != "individual")
        (bars,) = axes.containers
        expected = [10.1] * 4 if method == "dq32" else [90.1] * 3 + [80.1]
        assert bars[0].get_ydata() == pytest.approx(expected)
        assert not axes.texts


def test_what_is_not_recorded_says_so_and_of_ours_is_left_out() -> None:
    target, found = get("table1"), kept()
    left = tuple(record for record in found.records if record.unit not in ("joint", "selected"))
    fewer = replace(found, records=left)
    figure = picture.picture(target.title, target.published, fewer)
    said = {axes.get_title("left"): [text.get_text() for text in axes.texts] for axes in figure.axes if axes.texts}
    assert said == {METHODS["joint"].label: ["not recorded"]}
    assert METHODS["selected"].title not in {axes.get_title("left").replace("\n", " ") for axes in figure.axes}


def test_smoke_is_drawn_only_where_nothing_else_is() -> None:
    target, cpu = get("table1"), kept()
    smoke = tuple(replace(record, scale="smoke") for record in cpu.records)
    for records, scale in ((smoke, "smoke"), (cpu.records + smoke, "cpu")):
        figure = picture.picture(target.title, target.published, replace(cpu, records=records).beyond_smoke())
        labels = {line.get_label() for axes in figure.axes for line in axes.lines}
        assert {f"Individual, {scale} scale"} == {label for label in labels if label.startswith("Individual")}


def test_a_table_without_records_has_no_picture(tmp_path) -> None:
    target = get("table4")
    assert {path.suffix for path in target.render(evidence(target), tmp_path)} == {".csv", ".md"}
