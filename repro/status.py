"""Where every claim stands: roll-ups of the committed evidence, and the check that nothing of it has changed."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from repro import targets
from repro.errors import ReproError
from repro.evidence.claims import RUN_SCALES, SCALES, STAND_IN, Rollup, Row, is_worse, rollup
from repro.evidence.files import write_text
from repro.evidence.patterns import patterns
from repro.evidence.preregistration import preregistered
from repro.evidence.render import csv_text, markdown_table, number, read_fingerprint, undrawn
from repro.places import PREREGISTRATION, Places, gather

if TYPE_CHECKING:
    from repro.targets import Target

PICTURES = {".png", ".svg"}
RENDERED = PICTURES | {".csv", ".md"}
HEADER = ("target", "evidence", "verdicts", "states")


def claims(places: Places) -> dict[str, list[Row]]:
    """Every claim of the checkout's targets, judged on committed evidence alone."""
    known = [targets.get(name) for name in places.targets]
    return {target.name: list(target.rows(gather(target, places.committed(target)))) for target in known}


# --- the table -----------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """Roll-up of one target at one scale; `print` is what follows from the printed numbers."""

    target: str
    scale: str
    counts: Rollup
    stand_in: bool = False

    @property
    def reduced(self) -> bool:
        """Whether this is less than the published set-up."""
        return self.scale in ("smoke", "cpu", "gpu")

    @property
    def evidence(self) -> str:
        """What the line rests on."""
        if self.stand_in:
            return f"{self.scale}, stand-in: no evidence"
        return f"{self.scale}, reduced" if self.reduced else self.scale or "none yet"

    def cells(self) -> tuple[str, ...]:
        """The line as text, in the order of `HEADER`."""
        verdicts = ", ".join(f"{n} {verdict or 'without a verdict'}" for verdict, n in self.counts.verdicts.items())
        states = ", ".join(f"{n} {state}" for state, n in self.counts.states.items())
        return self.target, self.evidence, verdicts, states


def lines(judged: Mapping[str, Sequence[Row]]) -> list[Line]:
    """A line for each target and scale, in order of the scale."""
    return [
        Line(name, scale, rollup(some), all(row.claim == STAND_IN for row in some))
        for name, rows in judged.items()
        for scale in SCALES
        if (some := [row for row in rows if row.scale == scale])
    ]


def as_markdown(judged: Mapping[str, Sequence[Row]]) -> str:
    """The status table in Markdown, as the README shows it."""
    return markdown_table(HEADER, [line.cells() for line in lines(judged)])


def as_findings(judged: Mapping[str, Sequence[Row]]) -> str:
    """Every preregistered pattern or claim that runs were judged on, in Markdown, as the README shows them."""
    header = ("target", "scale", "claim", "ours", "95 % interval", "margin", "verdict")
    found = []
    for name, rows in judged.items():
        section, _ = preregistered(PREREGISTRATION, name)
        statements = {pattern.name: pattern.statement for pattern in patterns(section)} | section.get("claims", {})
        found += [
            (
                ", ".join(filter(None, (name, row.row))),
                row.scale,
                statements[row.claim],
                number(row.ours, 3),
                "" if row.low is None else f"{number(row.low, 3)} to {number(row.high, 3)}",
                number(row.margin, 3),
                row.verdict,
            )
            for row in rows
            if row.claim in statements and row.scale in RUN_SCALES and row.verdict
        ]
    return markdown_table(header, found, "lllrrrl")


BLOCKS: Mapping[str, Callable[[Mapping[str, Sequence[Row]]], str]] = {"claims": as_findings, "status": as_markdown}
"""What the README shows between its markers `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by spaces.

    >>> print(as_table(["a", "b"], [["table1", "x"], ["t", "y"]]))
    a       b
    table1  x
    t       y
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows))


def as_json(judged: Mapping[str, Sequence[Row]]) -> str:
    """Roll-ups and every claim."""
    summary = [
        {"target": line.target, "scale": line.scale, "reduced_scale": line.reduced, **asdict(line.counts)}
        for line in lines(judged)
    ]
    return json.dumps(
        {"targets": summary, "claims": [asdict(row) for rows in judged.values() for row in rows]}, indent=1
    )


# --- the check -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """What tells one claim from another: the leading columns of the baseline."""

    target: str
    claim: str
    kind: str
    scale: str
    row: str
    column: str

    @classmethod
    def of(cls, row: Row) -> Claim:
        """The identity of a judged row."""
        return cls(row.target, row.claim, row.kind, row.scale, row.row, row.column)

    def __str__(self) -> str:
        return " ".join(filter(None, astuple(self)))


@dataclass(frozen=True)
class Problem:
    """One difference between what is committed and what follows from it, with what to do; of a claim or a file."""

    subject: Claim | str
    line: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.line}"


def check(places: Places, judged: Mapping[str, Sequence[Row]]) -> list[Problem]:
    """Everything committed that does not follow from the committed records: renders, baseline, tables in the README.

    Records that cannot be used come first; renders of their target, and the README, are then left alone, as what they
    would follow from is not there.
    """
    damaged = {name: _check_records(places, targets.get(name)) for name in judged}
    return [
        *(problem for problems in damaged.values() for problem in problems),
        *(problem for name in judged if not damaged[name] for problem in _check_renders(places, targets.get(name))),
        *_check_baseline(places, judged),
        *(() if any(damaged.values()) else _check_readme(places, judged)),
    ]


def _check_records(places: Places, target: Target) -> list[Problem]:
    found = places.committed(target).read(target.name)[1]
    return [Problem(str(damaged.path), f"{damaged.reason}; {damaged.remedy}") for damaged in found]


def _check_renders(places: Places, target: Target) -> list[Problem]:
    remedy = f"python -m repro accept {target.name}"
    folder = places.renders(target)
    with tempfile.TemporaryDirectory() as temporary, undrawn():
        target.render(gather(target, places.committed(target)), Path(temporary))
        fresh = {path.name: path for path in Path(temporary).iterdir() if path.suffix in RENDERED}
        kept = {path.name: path for path in folder.glob(f"{target.name}[._]*") if path.suffix in RENDERED}
        problems = [(name, f"missing; {remedy}") for name in sorted(fresh.keys() - kept.keys())]
        problems += [(name, "no longer rendered; delete it") for name in sorted(kept.keys() - fresh.keys())]
        problems += [
            (name, f"differs from what the committed records give; {remedy}")
            for name in sorted(fresh.keys() & kept.keys())
            if _identity(fresh[name]) != _identity(kept[name])
        ]
    return [Problem(f"{folder.name}/{name}", line) for name, line in problems]


def _identity(path: Path) -> bytes | str | None:
    return read_fingerprint(path) if path.suffix in PICTURES else path.read_bytes()


def _check_baseline(places: Places, judged: Mapping[str, Sequence[Row]]) -> list[Problem]:
    remedy = "python -m repro status --accept-baseline"
    if not places.baseline.exists():
        return [Problem(places.baseline.name, f"missing; {remedy}")]
    before, now = read_baseline(places.baseline), standing(judged)
    problems = [Problem(claim, f"new claim, not in the baseline; {remedy}") for claim in now.keys() - before.keys()]
    problems += [Problem(claim, f"in the baseline, made no more; {remedy}") for claim in before.keys() - now.keys()]
    for claim in now.keys() & before.keys():
        if now[claim] != before[claim]:
            change = f"was {_words(before[claim])}, is {_words(now[claim])}"
            worse = is_worse(now[claim], before[claim])  # type: ignore[arg-type]
            advice = "find out why" if worse else f"take it as the baseline: {remedy}"
            problems.append(Problem(claim, f"{'worse' if worse else 'better'}: {change}; {advice}"))
    return sorted(problems, key=str)


def _words(standing: tuple[str, str]) -> str:
    verdict, state = standing
    return f"{verdict or 'without a verdict'} ({state})"


def _check_readme(places: Places, judged: Mapping[str, Sequence[Row]]) -> list[Problem]:
    try:
        text = places.readme.read_text("utf-8")
    except FileNotFoundError:
        return [Problem(places.readme.name, "missing; bring it back: git checkout")]
    try:
        new = renewed(text, judged)
    except ReproError as error:
        return [Problem(places.readme.name, str(error))]
    remedy = "its tables are not today's; python -m repro accept TARGET renews them"
    return [Problem(places.readme.name, remedy)] if new != text else []


def renewed(text: str, judged: Mapping[str, Sequence[Row]]) -> str:
    """A README with today's tables between its markers. Raises `ReproError` where it lacks any."""
    for name, table in BLOCKS.items():
        text = _with_block(text, name, table(judged))
    return text


def _with_block(text: str, name: str, table: str) -> str:
    """The text with this table between the markers of its name.

    >>> _with_block("# Title\\n<!-- status:begin -->\\nold\\n<!-- status:end -->\\n", "status", "new")
    '# Title\\n<!-- status:begin -->\\nnew\\n<!-- status:end -->\\n'
    """
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise ReproError(f"no {name} table in it; add the lines {first} and {last}")
    return f"{before}{first}\n{table.strip()}\n{last}{after}"


# --- the baseline --------------------------------------------------------------------------------------------------


BASELINE_HEADER = (*Claim.__dataclass_fields__, "verdict", "state")


def standing(judged: Mapping[str, Sequence[Row]]) -> dict[Claim, tuple[str, str]]:
    """Verdict and state of every claim."""
    return {Claim.of(row): (row.verdict, row.state) for rows in judged.values() for row in rows}


def read_baseline(path: Path) -> dict[Claim, tuple[str, str]]:
    """Verdict and state of every claim as last accepted. Raises `ReproError` for a line that is none."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    for line, fields in enumerate(lines, 2):
        if len(fields) != len(BASELINE_HEADER):
            raise ReproError(f"{path.name}, line {line}: not a claim; bring the file back: git checkout")
    return {Claim(*claim): (verdict, state) for *claim, verdict, state in lines}


def write_baseline(path: Path, judged: Mapping[str, Sequence[Row]]) -> None:
    """Accept today's verdicts and states."""
    lines = [[*astuple(claim), *stands] for claim, stands in standing(judged).items()]
    write_text(path, csv_text(BASELINE_HEADER, lines))


# --- for other programs --------------------------------------------------------------------------------------------


def as_junit(judged: Mapping[str, Sequence[Row]], problems: Sequence[Problem]) -> str:
    """One test case per claim, failing where the check found it changed, and one per file with a problem."""
    lines = {problem.subject: problem.line for problem in problems}
    cases: dict[Claim | str, Row | None] = {Claim.of(row): row for rows in judged.values() for row in rows}
    cases |= {subject: None for subject in lines if subject not in cases}
    suite = ElementTree.Element("testsuite", name="claims", tests=str(len(cases)), failures=str(len(lines)))
    for subject, row in cases.items():
        target = subject.target if isinstance(subject, Claim) else "files"
        case = ElementTree.SubElement(suite, "testcase", classname=target, name=str(subject))
        if subject in lines:
            ElementTree.SubElement(case, "failure", message=lines[subject])
        elif row and row.state == "missing":
            ElementTree.SubElement(case, "skipped", message=row.reason)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def as_github(judged: Mapping[str, Sequence[Row]], problems: Sequence[Problem]) -> str:
    """Annotations, one per problem; the status table goes to the job's summary where a job has one."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a") as file:
            file.write("\n".join(["## Status", "", as_markdown(judged), *(f"- {problem}" for problem in problems), ""]))
    return "\n".join(f"::error title=status::{str(problem).replace('%', '%25')}" for problem in problems)


FORMATS: Mapping[str, Callable[[Mapping[str, Sequence[Row]], Sequence[Problem]], str]] = {
    "table": lambda judged, problems: as_table(HEADER, [line.cells() for line in lines(judged)]),
    "md": lambda judged, problems: as_markdown(judged),
    "json": lambda judged, problems: as_json(judged),
    "junit": as_junit,
    "github": as_github,
}
"""How `status` can be shown."""
