"""Reader of the published CSV files: exact numbers with their units, as `columns.csv` declares them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

FOLDER = Path(__file__).parent
COLUMNS = "columns"
_HEADER = ("file", "column", "key", "kind", "unit", "decimals", "meaning")
_DECIMAL = re.compile(r"-?\d+(?:\.(\d+))?", re.ASCII)


class PublishedError(ValueError):
    """A published file that is malformed: one line that names file, line and column, and what is wrong there."""


@dataclass(frozen=True)
class Printed:
    """A number as it was printed: the text, and the closed interval of half a last digit each way it stands for.

    `decimals` is the number of digits after the point that the source gives. It is not less than the text shows,
    and more where the text leaves trailing zeros out.

    >>> cell = Printed("12.5", decimals=1, unit="% top-1")
    >>> cell.value, cell.h, cell.low, cell.high
    (Fraction(25, 2), Fraction(1, 20), Fraction(249, 20), Fraction(251, 20))
    >>> Printed("12", decimals=1).h
    Fraction(1, 20)
    """

    text: str
    decimals: int
    unit: str = ""

    def __post_init__(self) -> None:
        match = _DECIMAL.fullmatch(self.text)
        if not match:
            raise PublishedError(f"{self.text!r} is not a decimal number")
        if len(match[1] or "") > self.decimals:
            raise PublishedError(f"{self.text!r} has more than {self.decimals} digits after the point")

    @property
    def value(self) -> Fraction:
        """The printed number, exactly."""
        return Fraction(self.text)

    @property
    def h(self) -> Fraction:
        """Half a last digit."""
        return Fraction(1, 2 * 10**self.decimals)

    @property
    def low(self) -> Fraction:
        """Smallest number that rounds to this one."""
        return self.value - self.h

    @property
    def high(self) -> Fraction:
        """Largest number that rounds to this one."""
        return self.value + self.h

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        return self.text


Cell = str | int | Fraction | Printed
"""`text`, `integer` (a count or a bit-width), `exact` (a setting that was chosen) and `printed` columns."""


@dataclass(frozen=True)
class Column:
    """What `columns.csv` says of a column.

    `decimals` is a number, `shown` (as many as the cell itself shows), or the column of the same file that says it.
    """

    name: str
    key: bool
    kind: str
    unit: str
    decimals: str
    meaning: str

    def parse(self, row: dict[str, str]) -> Cell:
        """The cell of this column in a row of text. Raises `PublishedError`."""
        text = row[self.name]
        if not text or text != text.strip():
            raise PublishedError("the cell is empty" if not text.strip() else f"{text!r} has blanks around it")
        match self.kind:
            case "integer":
                return int(_decimal(text, 0).value)
            case "exact":
                return _decimal(text).value
            case "printed":
                return _decimal(text, self._decimals(row), self.unit)
        return text

    def _decimals(self, row: dict[str, str]) -> int | None:
        if self.decimals == "shown":
            return None
        return int(_decimal(row.get(self.decimals, self.decimals), 0).value)


def _decimal(text: str, decimals: int | None = None, unit: str = "") -> Printed:
    return Printed(text, len(text.partition(".")[2]) if decimals is None else decimals, unit)


def path(name: str, folder: Path = FOLDER) -> Path:
    """The CSV file of this name (without `.csv`)."""
    return folder / f"{name}.csv"


def columns(name: str, folder: Path = FOLDER) -> list[Column]:
    """What `columns.csv` declares for a file, in order. Raises `PublishedError` when that is nothing, or malformed.

    >>> [column.unit for column in columns("figure4_runs")]
    ['bit', '', '', '', '% top-1']
    """
    source = path(COLUMNS, folder)
    found, known = [], set()
    for line, cells in _lines(source, _HEADER):
        file, column, key, kind, unit, decimals, meaning = cells
        if kind not in ("text", "integer", "exact", "printed"):
            raise PublishedError(f"{source.name}, line {line}, column kind: {kind!r} is no kind of column")
        if file == name:
            found.append(Column(column, key == "1", kind, unit, decimals, meaning))
        known.add(file)
    if not found:
        raise PublishedError(f"{source.name}: no published file {name!r}; there are {', '.join(sorted(known))}")
    return found


def read(name: str, folder: Path = FOLDER) -> list[dict[str, Cell]]:
    """All rows of a published file, in order, each a dict by column.

    A column that `columns.csv` calls `printed` gives `Printed`, `exact` a `Fraction`, `integer` an `int`, `text` a
    `str`. Raises `PublishedError`, which names file, line and column, when the file does not have exactly the
    declared columns, a row has too few or too many cells, a cell is empty or no number of the declared decimals, or
    two rows have the same key; `OSError` when the file cannot be read.

    >>> row = read("figure4")[0]
    >>> row["bits"], row["weight_scaler"], row["top1_mean"].h
    (3, 'ste', Fraction(1, 2000))
    """
    declared = columns(name, folder)
    source = path(name, folder)
    rows, first = [], dict[tuple[str, ...], int]()
    for line, cells in _lines(source, tuple(column.name for column in declared)):
        text = dict(zip((column.name for column in declared), cells, strict=True))
        row: dict[str, Cell] = {}
        for column in declared:
            try:
                row[column.name] = column.parse(text)
            except PublishedError as error:
                raise PublishedError(f"{source.name}, line {line}, column {column.name}: {error}") from None
        key = tuple(text[column.name] for column in declared if column.key)
        if first.setdefault(key, line) != line:
            where = ", ".join(column.name for column in declared if column.key)
            raise PublishedError(f"{source.name}, line {line}, column {where}: the same key as in line {first[key]}")
        rows.append(row)
    return rows


def _lines(source: Path, header: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row, all as many as the header has, which must be this one."""
    try:
        with open(source, encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            found = tuple(next(reader, ()))
            if found != header:
                wrong = next(a or b for a, b in zip_longest(header, found) if a != b)
                raise PublishedError(f"{source.name}, line 1, column {wrong}: the header is not {','.join(header)}")
            for cells in reader:
                if len(cells) != len(header):
                    last = header[min(len(cells), len(header) - 1)]
                    message = f"{len(cells)} cells where the header has {len(header)}"
                    raise PublishedError(f"{source.name}, line {reader.line_num}, column {last}: {message}")
                yield reader.line_num, cells
    except csv.Error as error:
        raise PublishedError(f"{source.name}, line {reader.line_num}, column ?: {error}") from None
    except UnicodeDecodeError as error:
        raise PublishedError(f"{source.name}, byte {error.start}: not UTF-8") from None
