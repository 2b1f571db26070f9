"""What a benchmark run leaves: rows, the table that is printed, the ratios that were promised, the record, the plot."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from repro import hardware
from repro.evidence.render import fingerprint, markdown_table, save_figure, style
from tests.benchmarks.race import Race

FOLDER = Path(__file__).parents[2] / "benchmarks"
RENDERER = 2
ON_GPU = " on GPU"
"""How the name of data ends that lies there."""
QUIET = 1.5
"""The largest ratio of the 80th to the 20th percentile that a machine with nothing else to do shows."""


@dataclass(frozen=True)
class Row:
    """One contender in one race.

    Attributes:
        operation, data, backend: the key. `data` says shape and dtype.
        elements: of x; None for a training step.
        ms, p20, p80: median and percentiles over `samples`, milliseconds a call.
        gb_per_s: bytes that the operation has to move, once each, over the median.
        of_copy: that, in parts of what `out.copy_(x)` reaches in the same race.
        of_base: the median in multiples of the base's, another contender of the race.
        peak_mib: by how much the memory in use rises above the start.
    """

    operation: str
    data: str
    backend: str
    elements: int | None
    ms: float
    p20: float
    p80: float
    samples: int
    gb_per_s: float | None
    of_copy: float | None
    base: str
    of_base: float
    peak_mib: float | None
    commit: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.operation, self.data, self.backend

    @property
    def disturbed(self) -> bool:
        """Whether something else kept the machine busy, so that no ratio with this row is to be trusted."""
        return self.p80 > QUIET * self.p20


def rows(
    race: Race,
    operation: str,
    data: str,
    *,
    base: str,
    elements: int | None = None,
    bytes_moved: int | None = None,
    bytes_copied: int | None = None,
    peaks: dict[str, float | None] | None = None,
) -> list[Row]:
    """The rows of a race."""
    medians = {name: race.percentiles(name)[1] for name in race.samples}
    found = []
    for name, samples in race.samples.items():
        p20, ms, p80 = race.percentiles(name)
        moved = bytes_copied if name == "copy" else bytes_moved
        speed = moved / ms / 1e6 if moved else None
        of_copy = speed / (bytes_copied / medians["copy"] / 1e6) if speed and bytes_copied else None
        found.append(
            Row(
                operation=operation,
                data=data,
                backend=name,
                elements=elements,
                ms=_short(ms),
                p20=_short(p20),
                p80=_short(p80),
                samples=len(samples),
                gb_per_s=_short(speed),
                of_copy=_short(of_copy),
                base=base,
                of_base=_short(ms / medians[base]),
                peak_mib=_short((peaks or {}).get(name)),
                commit=code(),
            )
        )
    return found


@cache
def code() -> str:
    """The commit as the run found it, marked where there were changes: from the first race on its record is one."""
    commit, dirty = hardware.commit()
    return commit + "+" * dirty


def _short(number: float | None) -> Any:
    """Four significant digits: more than a timing has."""
    return None if number is None else float(f"{number:.4g}")


def table(found: Iterable[Row]) -> str:
    """The rows as Markdown; `time` is in multiples of that of the race's base."""
    header = ["operation", "data", "backend", "ms", "p20 – p80", "GB/s", "of copy", "time", "of", "peak MiB", "commit"]
    lines = [
        [
            row.operation,
            row.data,
            row.backend,
            f"{row.ms:.4g}",
            f"{row.p20:.4g} – {row.p80:.4g}",
            "" if row.gb_per_s is None else f"{row.gb_per_s:.1f}",
            "" if row.of_copy is None else f"{row.of_copy:.2f}",
            f"{row.of_base:.2f}",
            row.base,
            "" if row.peak_mib is None else f"{row.peak_mib:.0f}",
            row.commit[:7] + "+" * row.commit.endswith("+"),
        ]
        for row in found
    ]
    return markdown_table(header, lines, "lllrrrrrlrl")


@dataclass(frozen=True)
class Promise:
    """A value, mostly a ratio, that has to hold for each of `data`, on 2 CPU cores where they name no other device.

    `measure` of `over` by that of `under`, or that of `over` itself, at least or at most so much.
    """

    operation: str
    data: tuple[str, ...]
    over: str
    under: str | None
    at_least: float | None = None
    at_most: float | None = None
    measure: str = "ms"

    @property
    def on_gpu(self) -> bool:
        return all(data.endswith(ON_GPU) for data in self.data)

    @property
    def limit(self) -> str:
        sign, value = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {value:.3g}" if value is not None and value < 1000 else f"{sign} {value:,}"

    def judge(self, found: Sequence[Row]) -> list[tuple[str, float | None, str]]:
        """Of each of `data`: its name, the ratio, and whether it holds; None and `missing` if nothing was measured."""
        of_key = {row.key: row for row in found}
        judged: list[tuple[str, float | None, str]] = []
        for data in self.data:
            asked = [of_key.get((self.operation, data, name)) for name in (self.over, self.under) if name]
            rows = [row for row in asked if row]
            values = [getattr(row, self.measure) for row in rows]
            if len(rows) < len(asked) or None in values:
                judged.append((data, None, "missing"))
                continue
            ratio = values[0] / (values[1] if len(values) > 1 else 1)
            holds = (self.at_least is None or ratio >= self.at_least) and (
                self.at_most is None or ratio <= self.at_most
            )
            said = "disturbed" if any(row.disturbed for row in rows) else "yes" if holds else "NO"
            judged.append((data, ratio, said))
        return judged


LARGEST = ("16 M float32",)
LARGE = ("1 M float32", "4 M float32", *LARGEST, "64 M float32")
SMALL = ("1 k float32", "16 k float32", "conv weight 64x64x3x3")
LITE0, RESNET18 = ("Lite0 64 px, batch 64",), ("ResNet18-CIFAR, batch 64",)
LARGEST_ON_GPU = tuple(
    f"64 M {dtype}{what}{ON_GPU}" for dtype in ("float32", "bfloat16") for what in ("", " of a ReLU")
)
PROMISES = (
    Promise("forward, out given", LARGEST, "copy", "fused", at_least=0.8),
    *(Promise("backward, out given", LARGEST, "torch.add", name, at_least=0.9) for name in ("fused", "fused, ste")),
    *(Promise("backward by scaler", LARGEST, name, "ewgs", at_most=1.25) for name in ("acos", "tanh", "invtanh")),
    *(
        Promise(operation, LARGE, over, "fused", at_least=factor)
        for operation in ("forward, backward, out given", "autograd, static", "autograd, learned")
        for over, factor in (("eager", 5), ("torch", 8))
    ),
    Promise("forward, backward, out given", LARGEST, "torch.compile", "fused", at_least=4),
    *(
        Promise(operation, SMALL, "fused", peer, at_most=1.2)
        for operation in ("autograd, static", "autograd, learned")
        for peer in ("torch", "torch.compile", "brevitas")
    ),
    Promise("training step", LITE0, "fused", "fp32", at_most=1.12),
    Promise("training step", RESNET18, "fused", "fp32", at_most=1.05),
    Promise("training step", RESNET18, "joint", "fp32", at_most=4.3),
    Promise("training step", RESNET18, "joint", "separate", at_most=1.1, measure="peak_mib"),
    Promise("forward, out given", LARGEST_ON_GPU, "copy", "fused", at_least=0.9),
    Promise(
        "backward, out given", LARGEST_ON_GPU, "copy", "fused", at_least=0.85 * 2 / 3
    ),  # it moves 3 bytes for a copy's 2
    Promise("switching", ("ResNet18", "MobileNetV2"), "coquant", None, at_most=1),
    Promise("first use", ("forward and backward, ewgs",), "first process", None, at_most=10_000),
    Promise("first use", ("forward and backward, ewgs",), "later process", None, at_most=1_000),
    *(
        Promise("calibrating weights", ("Lite0, per channel, 8 bits",), name, None, at_most=1_000)
        for name in ("max", "percentile", "mse", "entropy")
    ),
    Promise("watching", ("Lite0 224 px, batch 16",), "watched", "forward", at_most=1.15),
)


def promises(found: Sequence[Row], about: dict[str, Any]) -> str:
    """What is promised of such a machine, or of its GPU, as Markdown: `missing` where no rows can judge it."""
    lines = []
    for p in PROMISES:
        if p.on_gpu != bool(about["gpu"]):
            continue
        times = f"{p.over} / {p.under}{', memory' * (p.measure != 'ms')}" if p.under else f"{p.over}, ms"
        for data, ratio, said in p.judge(found):
            lines.append([p.operation, data, times, "" if ratio is None else f"{ratio:.2f}", p.limit, said])
    return markdown_table(["operation", "data", "of", "value", "promised", "holds"], lines, "lllrrl")


# Record and plot: one of each per kind of machine


KIND = ("cpu", "cores", "gpu")
VERSIONS = ("python", "torch", "timm", "triton", "numba", "numpy")
"""Of what all timings depend on, beside the code; on Brevitas's depend its own rows alone."""


def machine() -> dict[str, Any]:
    """The kind of machine and the versions that the timings depend on."""
    known = {"cpu": hardware.cpu(), "cores": len(hardware.cores()), "gpu": hardware.gpu(), **hardware.versions()}
    with contextlib.suppress(PackageNotFoundError):
        known["brevitas"] = version("brevitas")
    return {name: known.get(name) for name in (*KIND, *VERSIONS, "brevitas")}


def stem(about: dict[str, Any]) -> Path:
    """Where the record of a machine of this kind lies, without its suffix.

    >>> stem({"cpu": "Some(R) CPU @ 2 GHz", "cores": 2, "gpu": None}).name
    'some-r-cpu-2-ghz-2-cores'
    """
    words = f"{about['cpu']} {about['cores']} cores {about['gpu'] or ''}"
    return FOLDER / re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def merge(new: Sequence[Row]) -> list[Row]:
    """Put new races in the place of old ones in this machine's record, and return all rows.

    Rows made with other versions are dropped, and those of an older race with the same name: timings do not compare.
    """
    about = machine()
    path = stem(about).with_suffix(".json")
    old = json.loads(path.read_text()) if path.exists() else {"machine": {}, "rows": []}
    changed = {name for name in about if old["machine"].get(name) != about[name]}
    kept = [Row(**row) for row in old["rows"] if not changed.intersection((*KIND, *VERSIONS))]
    raced = {row.key[:2] for row in new}
    found = [row for row in kept if row.backend not in changed and row.key[:2] not in raced] + list(new)
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(asdict(row))}" for row in found)
    path.write_text(f'{{\n "machine": {json.dumps(about)},\n "rows": [\n{lines}\n ]\n}}\n')
    return found


def page(found: Sequence[Row], about: dict[str, Any]) -> None:
    """Write the page of a machine's record, the promised ratios and every row, and its plot."""
    gpu = f", {about['gpu']}" if about["gpu"] else ""
    title = f"# Benchmarks: {about['cpu']}, {about['cores']} cores{gpu}\n\n"
    versions = ", ".join(
        f"{name} {value}" for name, value in about.items() if name in (*VERSIONS, "brevitas") and value
    )
    notes = (
        f"{versions}. Contenders of a race run in turn, in one process; `time` is in multiples of the column beside "
        "it, `of copy` the bandwidth in parts of that of `out.copy_(x)` in the same race. A row whose 80th percentile "
        f"is more than {QUIET} times its 20th was disturbed: the machine had something else to do. A sample is the "
        "mean of as many calls as take 5 ms (before commit 2ec817c: .5 ms)."
    )
    if any(row.peak_mib for row in found):
        notes += (
            " Peaks are of the memory in use, in a process of its own in which glibc gives large blocks back at once "
            "(before commit fecc6fc: of all that a process kept, what its heap had scattered too)."
        )
    if gpu:
        notes += " With outputs given, times are the GPU's own, and up to 4 M elements stay in its cache."
    image = f"![Bandwidth in parts of a copy's, over size]({stem(about).name}.png)\n\n"
    text = f"{title}{notes}\n\n{image}## Promises\n\n{promises(found, about)}\n## All rows\n\n{table(found)}"
    stem(about).with_suffix(".md").write_text(text)
    plot(found, about)


PLOTTED = ("forward, out given", "backward, out given", "autograd, static")


def plot(found: Sequence[Row], about: dict[str, Any]) -> None:
    """Bandwidth in parts of a copy's, over the number of elements, a panel per operation."""
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(row.backend for row in found if row.operation in PLOTTED) if name != "copy"]
    where = ON_GPU if about["gpu"] else ""
    with style():
        figure = Figure(figsize=(12, 4.2))
        panels = figure.subplots(1, len(PLOTTED), sharex=True, sharey=True)
        for panel, operation in zip(panels, PLOTTED, strict=True):
            for index, name in enumerate(names):
                points = sorted(
                    (row.elements, row.of_copy)
                    for row in found
                    if (row.operation, row.backend) == (operation, name)
                    and row.of_copy and row.elements and re.fullmatch(rf"\d+ [kM] float32{where}", row.data)
                )  # fmt: skip
                if points:
                    panel.plot(*zip(*points, strict=True), marker="o", label=name, color=f"C{index}")
            panel.set_xscale("log", base=2)
            panel.set_title(operation)
            panel.set_xlabel("elements, float32")
            panel.axhline(1, color="#888888", linewidth=1, linestyle="--")
        panels[0].set_ylabel("bandwidth, in parts of out.copy_(x)")
        keys = {label: key for panel in panels for key, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=max(len(keys), 1))
        figure.suptitle(
            f"{about['gpu'] or about['cpu']}, {about['cores']} cores, torch {about['torch']}", x=0.01, ha="left"
        )
    texts = [json.dumps([asdict(row) for row in found]), json.dumps(about)]
    save_figure(figure, stem(about), fingerprint(renderer=RENDERER, texts=texts))
