"""Evidence as files: CSV, Markdown, and figures in one house style. The same input gives the same bytes."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.evidence.canonical import digest
from repro.evidence.claims import Row
from repro.evidence.files import write_bytes, write_text
from repro.evidence.intervals import mean_sd
from repro.evidence.records import Record
from repro.published import path as published_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from repro.evidence.collection import Evidence

RENDERER = 1
"""Version of this module's drawing and writing, part of every fingerprint; raised when its output changes."""

HEADER = tuple(field.name for field in fields(Row))
"""Columns of a target's CSV."""

PNG_KEY = "Fingerprint"
_SVG_FINGERPRINT = re.compile(rb"<dc:identifier>([0-9a-f]{64})</dc:identifier>")


# Text


def number(x: float | None, digits: int = 6) -> str:
    """A number as files show it: `digits` significant digits, empty for `None`, no negative zero.

    Six digits keep apart what can be told apart, and leave out those in which two machines differ.

    >>> number(95.12345678), number(100.0), number(-0.0), number(None), number(3)
    ('95.1235', '100', '0', '', '3')
    """
    if x is None:
        return ""
    return f"{x + 0.0:.{digits}g}" if isinstance(x, float) else str(x)


def mean_text(values: Collection[float], decimals: int = 1, sign: str = "", empty: str = "–") -> str:
    """The mean of values, with their standard deviation where there are several.

    >>> mean_text([86.0, 87.0]), mean_text([86.54], 2, sign="+"), mean_text([])
    ('86.5 ± 0.7', '+86.54', '–')
    """
    if not values:
        return empty
    mean, sd = mean_sd(list(values))
    return f"{mean:{sign}.{decimals}f}" + ("" if sd is None else f" ± {sd:.{decimals}f}")


def settings_text(records: Iterable[Record], unsaid: Mapping[str, object] | None = None) -> str:
    """The settings that records were made with; those with more than four values are left to the records.

    `unsaid` are values of settings that records leave out where they have just these; one that any record names is not
    filled in for the others.
    """
    found: dict[str, set[str]] = {}
    for record in records:
        for key, value in record.settings.items():
            found.setdefault(key, set()).add(str(value))
    found = {key: {str(value)} for key, value in (unsaid or {}).items()} | found
    return ", ".join(f"{key} {' | '.join(sorted(values))}" for key, values in sorted(found.items()) if len(values) < 5)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]], digits: int = 6) -> str:
    """CSV with a header, `\\n` at every line's end, numbers as `number` shows them.

    Raises `ValueError` for a row of another length than the header's.

    >>> csv_text(("x", "note"), [(0.5, "a,b"), (None, "")])
    'x,note\\n0.5,"a,b"\\n,\\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells where the header has {len(header)}")
        writer.writerow([number(c, digits) if c is None or isinstance(c, float) else str(c) for c in row])
    return text.getvalue()


def write_csv(rows: Iterable[Row], path: Path) -> Path:
    """Write a target's CSV, one line per row, with the columns of `Row` in order. Raises `OSError`."""
    return write_text(path, csv_text(HEADER, [[getattr(row, name) for name in HEADER] for row in rows]))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A Markdown table with columns padded to one width, so that it reads well in a terminal too.

    `align` has a letter per column: `l`, `r` or `c`; all `l` when empty. Bars in cells are escaped, line ends become
    blanks. Raises `ValueError` when a row or `align` has another length than the header.

    >>> print(markdown_table(("method", "top-1"), [("joint", "12.5"), ("a|b", "8")], "lr"), end="")
    | method | top-1 |
    | :----- | ----: |
    | joint  |  12.5 |
    | a\\|b   |     8 |
    """
    align = align or "l" * len(header)
    lines = [[" ".join(cell.replace("|", "\\|").splitlines()) for cell in line] for line in (header, *rows)]
    if any(len(line) != len(align) for line in lines):
        raise ValueError(f"a table of {len(header)} columns has a row or an alignment of another length")
    widths = [max(3, *(len(line[j]) for line in lines)) for j in range(len(align))]
    pad = {"l": str.ljust, "r": str.rjust, "c": str.center}
    rule = [
        (":" if a in "lc" else "-") + "-" * (w - 2) + (":" if a in "rc" else "-")
        for a, w in zip(align, widths, strict=True)
    ]
    padded = [[pad[a](cell, w) for a, cell, w in zip(align, line, widths, strict=True)] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in (padded[0], rule, *padded[1:]))


def page_text(
    title: str, parts: Sequence[str], sources: Mapping[str, Evidence], section: Callable[[str, Evidence, str], str]
) -> str:
    """The Markdown page of a target: title, `parts`, and a section for each source of runs and scale that it has.

    `section(name, evidence, scale)` is given what heads it: the source and the scale.
    """
    sections = [
        section(f"{name} {scale}".strip(), evidence, scale)
        for name, evidence in sources.items()
        for scale in evidence.scales
    ]
    return "\n".join((f"# {title}\n", *parts, *(sections or ["Nothing is recorded yet.\n"])))


def write_page(name: str, rows: Iterable[Row], text: str, folder: Path) -> list[Path]:
    """Write the CSV and the page of a target. Raises `OSError`."""
    return [write_csv(rows, folder / f"{name}.csv"), write_text(folder / f"{name}.md", text)]


# Figures

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
"""Cycle of line colours: those of Okabe and Ito, told apart with any kind of colour vision."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same shapes on every machine
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "figure.figsize": (7.2, 4.2),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "repro",  # fixed: the names of SVG elements would otherwise be drawn at random
}


@contextmanager
def style() -> Iterator[None]:
    """The house style of all figures: `with style(): figure = Figure(); ...`. Restores matplotlib's settings."""
    import matplotlib as mpl
    from cycler import cycler

    settings: Any = STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        yield


_drawn = ContextVar("_drawn", default=True)


@contextmanager
def undrawn() -> Iterator[None]:
    """Within, `save_figure` draws nothing, which is what takes long: pictures are blank but for their fingerprints."""
    token = _drawn.set(False)
    try:
        yield
    finally:
        _drawn.reset(token)


def save_figure(figure: Figure, stem: Path, fingerprint: str) -> list[Path]:
    """Write `<stem>.png` and `<stem>.svg` with the fingerprint inside, and no date or version. Raises `OSError`.

    The layout is computed once, for both. The bytes depend on figure, fingerprint and matplotlib's version; across
    versions, compare fingerprints.
    """
    if not _drawn.get():
        figure = type(figure)(figsize=(0.1, 0.1))
    with style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # each drawing would move the axes on a little
    paths = []
    for kind, metadata in (
        ("png", {PNG_KEY: fingerprint, "Software": None}),
        ("svg", {"Identifier": fingerprint, "Creator": None, "Date": None}),
    ):
        data = io.BytesIO()
        with style():
            figure.savefig(data, format=kind, metadata=metadata)
        paths.append(write_bytes(stem.with_name(f"{stem.name}.{kind}"), data.getvalue()))
    return paths


def fingerprint(
    *, renderer: int, records: Iterable[Record] = (), published: Iterable[str] = (), texts: Iterable[str] = ()
) -> str:
    """SHA-256, in hexadecimal, of all that a picture is made from: what `status --check` compares pictures by.

    `renderer` is the version of the target's own drawing, raised when the picture changes; `published` names
    published files (without `.csv`); `texts` is whatever else is drawn, as text: the CSV of a computed curve, say.
    The order of records and names does not matter.
    """
    return digest(
        {
            "renderer": [RENDERER, renderer],
            "records": sorted(digest(asdict(record)) for record in records),
            "published": {name: hashlib.sha256(published_path(name).read_bytes()).hexdigest() for name in published},
            "texts": list(texts),
        }
    )


def read_fingerprint(path: Path) -> str | None:
    """The fingerprint inside a PNG or SVG file, `None` where it has none. Raises `OSError` when it cannot be read."""
    data = path.read_bytes()
    if path.suffix == ".svg":
        match = _SVG_FINGERPRINT.search(data)
        return match[1].decode("ascii") if match else None
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return image.info.get(PNG_KEY)
