"""The printed tables of the paper on adaptive bit-widths."""

from __future__ import annotations

import csv

import pytest

from repro.published import PublishedError, path, read, table

TARGETS = ("table1", "table2", "table3", "table4")


@pytest.mark.parametrize("target", TARGETS)
def test_every_cell_is_the_one_in_the_file(target: str) -> None:
    printed = table(target)
    with open(path("tables"), newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["target"] == target]
    assert printed.methods == tuple(row["method"] for row in rows)
    for row in rows:
        assert printed.cell(row["method"], 8).text == row["top1_8bit"]
        assert printed.cell(row["method"], 2).text == row["top1_2bit"]
        assert printed.delta_b(row["method"]).text == row["delta_b"]
    assert (printed.network, printed.dataset) == (rows[0]["network"], rows[0]["dataset"])
    assert (printed.source, printed.read_from) == (rows[0]["source"], rows[0]["read_from"])


@pytest.mark.parametrize("target", TARGETS)
def test_tables_have_one_shape(target: str) -> None:
    printed = table(target)
    assert printed.bits == (8, 6, 4, 2)
    assert printed.methods == table("table1").methods
    assert len(printed.cells) == len(printed.methods) * 5
    assert {cell.unit for cell in printed.cells.values()} == {"% top-1", "% of Individual"}


@pytest.mark.parametrize("target", TARGETS)
def test_the_caption_prints_coquants_delta_b_bold(target: str) -> None:
    """In all four tables, also in Table 4, where another method's is higher: it is data, not a maximum."""
    assert table(target).bold == {("coquant", "delta_b")}


def test_an_unknown_table() -> None:
    with pytest.raises(PublishedError, match=r"tables.csv: no table 'table5'"):
        table("table5")


def test_an_unknown_cell() -> None:
    with pytest.raises(KeyError):
        table("table1").cell("coquant", 3)


def test_a_third_party_confirms_the_coquant_row_of_table_3() -> None:
    theirs = {row["bits_w"]: str(row["top1"]) for row in read("third_party") if row["method"] == "coquant"}
    assert theirs == {bits: table("table3").cell("coquant", bits).text for bits in (8, 6, 4, 2)}
