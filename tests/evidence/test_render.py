"""Evidence as files: deterministic bytes, and pictures that say what they were made from."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from repro.evidence import files
from repro.evidence.claims import Row
from repro.evidence.render import (
    HEADER,
    csv_text,
    fingerprint,
    markdown_table,
    number,
    read_fingerprint,
    save_figure,
    style,
    undrawn,
    write_csv,
)
from tests.made_up import record

COLUMNS = "target,claim,kind,scale,row,column,published,read_from,ours,sd,n,low,high,margin,verdict,state,reason"

ROWS = [
    Row(target="t", claim="c", kind="arithmetic", published="95.0", ours=1 / 3, verdict="consistent"),
    Row(target="t", claim="d", kind="number", scale="cpu", n=3, low=-0.0, state="stale", reason='older, "odd" code'),
]


def draw() -> Figure:
    with style():
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, 1, 2], [0, 1, 4], label="squares")
        axes.fill_between([0, 2], [0, 0], [1, 1], alpha=0.3)
        axes.set_title("Bytes")
        axes.legend()
    return figure


# CSV


def test_the_csv_has_exactly_the_columns_of_the_evidence(tmp_path: Path) -> None:
    assert ",".join(HEADER) == COLUMNS
    lines = write_csv(ROWS, tmp_path / "t.csv").read_bytes().decode().split("\n")
    assert lines == [
        COLUMNS,
        "t,c,arithmetic,print,,,95.0,,0.333333,,,,,,consistent,ok,",
        't,d,number,cpu,,,,,,,3,0,,,,stale,"older, ""odd"" code"',
        "",
    ]


def test_the_csv_reads_back(tmp_path: Path) -> None:
    with open(write_csv(ROWS, tmp_path / "deep" / "t.csv"), newline="") as file:
        assert [line["reason"] for line in csv.DictReader(file)] == ["", 'older, "odd" code']


@pytest.mark.parametrize(
    ("x", "text"), [(None, ""), (0.1 + 0.2, "0.3"), (-0.0, "0"), (1e-7, "1e-07"), (12345678.0, "1.23457e+07"), (7, "7")]
)
def test_numbers_do_not_show_what_differs_between_machines(x: float | None, text: str) -> None:
    assert number(x) == text


def test_more_digits_for_plotted_points() -> None:
    assert csv_text(["x", "y"], [[1 / 3, None], ["a", 3]], digits=9) == "x,y\n0.333333333,\na,3\n"


def test_a_row_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 cells where the header has 2"):
        csv_text(["x", "y"], [[1.0]])


# Markdown


def test_markdown_columns_are_aligned_and_safe() -> None:
    text = markdown_table(["a", "number", "c"], [["x|y", "1.5", "two\nlines"], ["", "10.25", "é"]], "lrc")
    assert text == (
        "| a    | number |     c     |\n"
        "| :--- | -----: | :-------: |\n"
        "| x\\|y |    1.5 | two lines |\n"
        "|      |  10.25 |     é     |\n"
    )


def test_an_empty_table_is_its_header() -> None:
    assert markdown_table(["a", "b"], []) == "| a   | b   |\n| :-- | :-- |\n"


@pytest.mark.parametrize(("rows", "align"), [([["1"]], ""), ([["1", "2"]], "l")])
def test_tables_of_another_shape_are_errors(rows: list[list[str]], align: str) -> None:
    with pytest.raises(ValueError, match="another length"):
        markdown_table(["a", "b"], rows, align)


# Figures


def test_drawing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    once = save_figure(draw(), tmp_path / "once", "a" * 64)
    again = save_figure(draw(), tmp_path / "again", "a" * 64)
    assert [path.name for path in once] == ["once.png", "once.svg"]
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_saving_a_figure_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    figure = draw()
    once = [path.read_bytes() for path in save_figure(figure, tmp_path / "f", "a" * 64)]
    assert once == [path.read_bytes() for path in save_figure(figure, tmp_path / "f", "a" * 64)]


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    """Neither hash randomisation nor the clock gets into the files."""
    code = (
        "from pathlib import Path; from tests.evidence.test_render import draw, save_figure;"
        f"save_figure(draw(), Path({str(tmp_path)!r}) / 'theirs', 'a' * 64)"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1", "MPLBACKEND": "svg"}
    subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=True)
    for path in save_figure(draw(), tmp_path / "ours", "a" * 64):
        assert path.read_bytes() == path.with_name(f"theirs{path.suffix}").read_bytes()


def test_the_users_matplotlib_settings_neither_matter_nor_change(tmp_path: Path) -> None:
    once = save_figure(draw(), tmp_path / "once", "a" * 64)
    with mpl.rc_context({"font.size": 30, "savefig.dpi": 30, "axes.grid": False, "svg.hashsalt": None}):
        again = save_figure(draw(), tmp_path / "again", "a" * 64)
        assert mpl.rcParams["font.size"] == 30
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_pictures_carry_their_fingerprint(tmp_path: Path) -> None:
    made_from = fingerprint(renderer=1, records=[record()], published=["tables"])
    for path in save_figure(draw(), tmp_path / "f", made_from):
        assert read_fingerprint(path) == made_from


def test_pictures_of_others_have_none(tmp_path: Path) -> None:
    for name in ("f.png", "f.svg"):
        draw().savefig(tmp_path / name)
        assert read_fingerprint(tmp_path / name) is None


def test_undrawn_pictures_have_their_fingerprints(tmp_path: Path) -> None:
    with undrawn():
        blank, _ = save_figure(draw(), tmp_path / "blank", "a" * 64)
    drawn, _ = save_figure(draw(), tmp_path / "drawn", "a" * 64)
    assert read_fingerprint(blank) == read_fingerprint(drawn) == "a" * 64
    assert len(blank.read_bytes()) < len(drawn.read_bytes()) / 10


def test_a_name_with_a_point_keeps_it(tmp_path: Path) -> None:
    assert [path.name for path in save_figure(draw(), tmp_path / "v1.5", "a" * 64)] == ["v1.5.png", "v1.5.svg"]


def test_the_fingerprint_follows_records_published_files_drawing_and_nothing_else() -> None:
    a, b = record(seed=0), record(seed=1)
    base = fingerprint(renderer=1, records=[a, b], published=["tables", "bold"], texts=["x"])
    assert base == fingerprint(renderer=1, records=[b, a], published=["bold", "tables"], texts=["x"])
    assert len(base) == len(hashlib.sha256().hexdigest())
    others = {
        fingerprint(renderer=2, records=[a, b], published=["tables", "bold"], texts=["x"]),
        fingerprint(renderer=1, records=[a], published=["tables", "bold"], texts=["x"]),
        fingerprint(renderer=1, records=[a, replace(b, values={"8": 90.1})], published=["tables", "bold"], texts=["x"]),
        fingerprint(renderer=1, records=[a, b], published=["tables"], texts=["x"]),
        fingerprint(renderer=1, records=[a, b], published=["tables", "bold"], texts=["y"]),
    }
    assert len(others | {base}) == 6


# Writing


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = files.write_text(tmp_path / "f.md", "old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["f.md"]


def test_text_is_utf8_with_line_ends_as_given(tmp_path: Path) -> None:
    assert files.write_text(tmp_path / "f", "é\n").read_bytes() == b"\xc3\xa9\n"
