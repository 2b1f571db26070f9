"""Tables 1-4 of the paper on adaptive bit-widths, as printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from repro.published.reader import Printed, PublishedError, read


@dataclass(frozen=True)
class PublishedTable:
    """One printed table: a row per method, a column per bit-width, and Delta_B."""

    target: str
    network: str
    dataset: str
    source: str
    read_from: str
    methods: tuple[str, ...]
    """In printed order."""
    bits: tuple[int, ...]
    """Bit-widths in printed order, highest first."""
    cells: Mapping[tuple[str, str], Printed]
    """By method and column name of `tables.csv`."""
    bold: frozenset[tuple[str, str]]
    """Method and column of each entry that the captions print bold."""

    def cell(self, method: str, bits: int) -> Printed:
        """Accuracy at a bit-width, % top-1. Raises `KeyError`."""
        return self.cells[method, f"top1_{bits}bit"]

    def delta_b(self, method: str) -> Printed:
        """The printed Delta_B, % of Individual. Raises `KeyError`."""
        return self.cells[method, "delta_b"]


@cache
def table(target: str) -> PublishedTable:
    """The printed table `table1` .. `table4`; raises `PublishedError` for another name.

    >>> printed = table("table4")
    >>> printed.network, printed.dataset, printed.bits
    ('resnet18', 'mini_kinetics', (8, 6, 4, 2))
    >>> printed.cell("coquant", 2).unit, printed.delta_b("coquant").unit, sorted(printed.bold)
    ('% top-1', '% of Individual', [('coquant', 'delta_b')])
    """
    rows = [row for row in read("tables") if row["target"] == target]
    if not rows:
        raise PublishedError(f"tables.csv: no table {target!r}")
    same = {name: str(rows[0][name]) for name in ("network", "dataset", "source", "read_from")}
    for row in rows:
        if any(row[name] != text for name, text in same.items()):
            raise PublishedError(f"tables.csv: rows of {target} differ in network, dataset, source or read_from")
    cells = {
        (str(row["method"]), name): cell for row in rows for name, cell in row.items() if isinstance(cell, Printed)
    }
    bits = tuple(int(name[5:-3]) for name in rows[0] if name.startswith("top1_"))
    bold = frozenset((str(row["method"]), str(row["column"])) for row in read("bold") if row["target"] == target)
    if not bold <= cells.keys():
        raise PublishedError(f"bold.csv: {target} has no entry {sorted(bold - cells.keys())[0]}")
    return PublishedTable(
        target, **same, methods=tuple(str(r["method"]) for r in rows), bits=bits, cells=cells, bold=bold
    )
