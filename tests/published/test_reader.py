"""The reader of published files: exact numbers, and one line for everything that is malformed."""

from __future__ import annotations

import csv
import io
import shutil
from fractions import Fraction
from pathlib import Path

import pytest

from repro.published import FOLDER, Printed, PublishedError, path, read
from repro.published.reader import columns

FILES = ("figure2", "tables", "bold", "figure4", "figure4_runs", "pareto", "ptq", "third_party")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the published files that a test may spoil."""
    shutil.copytree(FOLDER, tmp_path / "published", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return tmp_path / "published"


def spoil(file: Path, line: int, column: str, text: str) -> None:
    """Put `text` in place of one cell, as it is."""
    lines = [next(csv.reader([line])) for line in file.read_text().splitlines()]
    lines[line - 1][lines[0].index(column)] = "\0"
    quoted = io.StringIO()
    csv.writer(quoted, lineterminator="\n").writerows(lines)
    file.write_text(quoted.getvalue().replace("\0", text))


def message(name: str, folder: Path) -> str:
    """What `read` complains of: one line."""
    with pytest.raises(PublishedError) as error:
        read(name, folder)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_every_file_is_declared_and_every_declared_file_is_there() -> None:
    declared = {line.split(",")[0] for line in path("columns").read_text().splitlines()[1:]}
    assert declared == set(FILES) == {file.stem for file in FOLDER.glob("*.csv")} - {"columns"}


@pytest.mark.parametrize("name", FILES)
def test_files_are_utf8_with_unix_line_ends_and_read_whole(name: str) -> None:
    data = path(name).read_bytes()
    assert b"\r" not in data
    assert data.endswith(b"\n")
    assert len(read(name)) == data.count(b"\n") - 1


@pytest.mark.parametrize("name", FILES)
def test_every_printed_column_has_a_unit_and_every_column_a_meaning(name: str) -> None:
    for column in columns(name):
        assert column.meaning
        assert bool(column.unit and column.decimals) == (column.kind == "printed") or column.unit == "bit"


def test_kinds_give_their_types() -> None:
    row = read("pareto")[0]
    assert (row["run"], row["network"], row["size_target"]) == (0, "efficientnet_lite0", Fraction(2))
    size = row["activation_kb"]
    assert isinstance(size, Printed)
    assert (size.unit, size.decimals, size.value) == ("kB", 3, Fraction(size.text))


def test_declared_decimals_rule_over_dropped_zeros() -> None:
    """The released runs leave trailing zeros out; Individual's 100 is printed without its digit after the point."""
    short = next(row["top1"] for row in read("figure4_runs") if len(str(row["top1"])) == 4)
    hundred = read("tables")[0]["delta_b"]
    assert isinstance(short, Printed)
    assert isinstance(hundred, Printed)
    assert short.h == Fraction(1, 200)
    assert (hundred.text, hundred.h) == ("100", Fraction(1, 20))


def test_decimals_as_shown() -> None:
    shown = [row["top1"] for row in read("third_party")]
    assert {cell.decimals for cell in shown if isinstance(cell, Printed)} == {1, 2}


def test_released_means_and_deviations_follow_from_the_released_runs() -> None:
    runs: dict[tuple[object, ...], list[Fraction]] = {}
    for row in read("figure4_runs"):
        assert isinstance(row["top1"], Printed)
        runs.setdefault((row["bits"], row["weight_scaler"], row["activation_scaler"]), []).append(row["top1"].value)
    for row in read("figure4"):
        x = runs.pop((row["bits"], row["weight_scaler"], row["activation_scaler"]))
        mean, sd = row["top1_mean"], row["top1_sd"]
        assert isinstance(mean, Printed)
        assert isinstance(sd, Printed)
        assert len(x) == row["runs"]
        assert mean.low <= sum(x) / len(x) <= mean.high
        assert sd.low**2 <= sum((v - sum(x) / len(x)) ** 2 for v in x) / (len(x) - 1) <= sd.high**2
    assert not runs


def test_released_sizes_add_up() -> None:
    for row in read("pareto"):
        parts = [row[name] for name in ("activation_kb", "weight_kb", "batchnorm_kb")]
        total = row["total_mb"]
        assert isinstance(total, Printed)
        low = sum((part.low for part in parts if isinstance(part, Printed)), Fraction(0)) / 1000
        high = sum((part.high for part in parts if isinstance(part, Printed)), Fraction(0)) / 1000
        assert low <= total.high
        assert total.low <= high


@pytest.mark.parametrize(
    ("name", "column", "text", "reason"),
    [
        ("tables", "top1_8bit", "1O.7", "'1O.7' is not a decimal number"),
        ("tables", "top1_8bit", "10.75", "'10.75' has more than 1 digits after the point"),
        ("tables", "top1_8bit", "", "the cell is empty"),
        ("tables", "top1_8bit", " 10.5", "' 10.5' has blanks around it"),
        ("tables", "top1_8bit", "1e1", "'1e1' is not a decimal number"),
        ("tables", "top1_8bit", "nan", "'nan' is not a decimal number"),
        ("tables", "top1_8bit", "١٠.5", "'١٠.5' is not a decimal number"),
        ("tables", "decimals", "one", "'one' is not a decimal number"),
        ("figure4", "runs", "20.0", "'20.0' has more than 0 digits after the point"),
    ],
)
def test_a_broken_cell_is_named_by_file_line_and_column(
    folder: Path, name: str, column: str, text: str, reason: str
) -> None:
    spoil(path(name, folder), 3, column, text)
    found = message(name, folder)
    assert found.startswith(f"{name}.csv, line 3, column ")
    assert found.endswith(f": {reason}")
    assert column == "decimals" or f"column {column}:" in found


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("network", "a,b", "line 3, column read_from: 13 cells where the header has 12"),
        ("method", "individual", "line 3, column target, method: the same key as in line 2"),
        ("network", '"resnet"18', "line 3, column ?: ',' expected after '\"'"),
    ],
)
def test_a_broken_line(folder: Path, column: str, text: str, expected: str) -> None:
    spoil(path("tables", folder), 3, column, text)
    assert message("tables", folder) == f"tables.csv, {expected}"


def test_a_short_line(folder: Path) -> None:
    with open(path("bold", folder), "a") as file:
        file.write("table5,coquant\n")
    assert message("bold", folder) == "bold.csv, line 6, column column: 2 cells where the header has 4"


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("target,column,method,read_from", "method"),
        ("target,method,column", "read_from"),
        ("target,method,column,read_from,note", "note"),
    ],
)
def test_another_header(folder: Path, header: str, column: str) -> None:
    path("bold", folder).write_text(header + "\n")
    expected = f"bold.csv, line 1, column {column}: the header is not target,method,column,read_from"
    assert message("bold", folder) == expected


def test_a_broken_declaration(folder: Path) -> None:
    spoil(path("columns", folder), 4, "kind", "written")
    assert message("bold", folder) == "columns.csv, line 4, column kind: 'written' is no kind of column"


def test_not_utf8(folder: Path) -> None:
    path("bold", folder).write_bytes(b"target,method,column,read_from\n\xff,a,b,c\n")
    assert message("bold", folder) == "bold.csv, byte 31: not UTF-8"


def test_an_empty_file(folder: Path) -> None:
    path("bold", folder).write_bytes(b"")
    assert message("bold", folder).startswith("bold.csv, line 1, column target: the header is not target,method,")


def test_an_undeclared_file_lists_the_declared_ones(folder: Path) -> None:
    text = message("figure5", folder)
    assert text == "columns.csv: no published file 'figure5'; there are " + ", ".join(sorted(FILES))


def test_a_missing_file_is_an_os_error(folder: Path) -> None:
    path("bold", folder).unlink()
    with pytest.raises(FileNotFoundError):
        read("bold", folder)


@pytest.mark.parametrize("text", ["", "1.", ".5", "+1", "1_0", "0x1", "inf", "1/2", "1,5", "1 ", "1\n"])
def test_printed_takes_plain_decimals_only(text: str) -> None:
    with pytest.raises(PublishedError, match="is not a decimal number"):
        Printed(text, 1)


def test_the_rounding_interval_is_exact() -> None:
    """Closed, half a last digit each way: adjacent printed values share an end."""
    assert Printed("0.1", 1).high == Printed("0.2", 1).low == Fraction(3, 20)
    assert Printed("-0.5", 1).low == Fraction(-11, 20)
    assert float(Printed("0.1", 1)) == 0.1
    assert str(Printed("0.10", 2)) == "0.10"
