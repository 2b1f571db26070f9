"""Figure 2 of paper A: what each gradient scaler multiplies the gradient by, against the rounding error.

    e = v - rint(v), -0.5 <= e <= 0.5,    dx = g * s(sign(g), e),    plotted: (s - 1) / delta

in three forms: `drawn`, which is what the paper's figure shows; `printed`, its formulas; `normalised`, the authors'
released code. Nothing is trained. Source: paper A, Figure 2; contract S1, S1b, S5.

Deviations:
1. The paper's figure shows the drawn form alone; beside it are the two forms that a network can be trained with.
2. delta and alpha are those of the released code: what the text prints of them could not be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

import backends
from backends import reference
from backends.contract import NOISE_CONTROLS, SCALERS, Scaler, scaler_names
from repro.evidence import render
from repro.evidence.claims import Row, judge_arithmetic, rollup
from repro.evidence.collection import Evidence
from repro.evidence.files import write_text
from repro.published import Printed, read
from repro.targets import Context, Outcome, Scalar, Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWING = 1
"""Version of the drawing, part of the pictures' fingerprint; raised when they change."""

Form = Literal["drawn", "printed", "normalised"]
FORMS: tuple[Form, ...] = get_args(Form)
ERRORS = np.arange(-50, 51) / 100
THRESHOLD = 0.5
"""Rounding error at which `rint` goes on to the next code."""
DELTA = Scaler("ste").delta

POINTS = ("scaler", "form", "delta", "alpha", "grad_sign", "error", "multiplier")
"""Columns of `figure2_points.csv`."""


def curve(name: str, form: Form, sign: int = 1, error: np.ndarray = ERRORS, backend: str = "reference") -> np.ndarray:
    """The multiplier s(sign, e) of a scaler: float64, shape of `error` (in grid units), with the authors' constants.

    `reference` computes in float64; the torch backends in float32, as in training. The drawn form has no sign and
    comes from the reference whatever the backend. Raises `ValueError` for an unknown scaler, or one that the paper
    does not draw; for an unknown backend too. Source: contract S1, S1b.

    >>> curve("ewgs", "printed", -1, np.array([-0.5, 0.0, 0.5]))
    array([1.0025, 1.    , 0.9975])
    """
    if form == "drawn":
        return 1 + reference.drawn_curve(name, error, DELTA)
    scaler = Scaler(name, form=form)
    if backend == "reference":
        return reference.multiplier(scaler, np.full_like(error, sign), error)
    import torch

    e = torch.from_numpy(error).float()
    return backends.get(backend).multiplier(scaler, torch.full_like(e, sign), e).double().numpy()


def strength(name: str, form: Form, sign: int = 1, error: float = THRESHOLD, backend: str = "reference") -> float:
    """(s - 1) / delta at one rounding error.

    >>> strength("invtanh", "normalised"), strength("ewgs", "printed", sign=-1)
    (0.5, -0.5)
    """
    return round(float(curve(name, form, sign, np.array([error]), backend)[0] - 1) / DELTA, 6)


def scalers() -> tuple[str, ...]:
    """The six scalers of the figure, then those that users have registered."""
    return tuple(name for name in scaler_names() if name not in NOISE_CONTROLS)


def forms(name: str) -> tuple[Form, ...]:
    """The forms a scaler has: the paper draws only its own six."""
    return FORMS if name in SCALERS else FORMS[1:]


# What is stated


def claim(name: str, scaler: str, form: Form, stated: Printed, read_from: str, backend: str = "reference") -> Row:
    """The row of one number that is stated of a curve: consistent iff ours rounds to it.

    `strength_at_threshold` is (s - 1) / delta at the threshold; `strength_over_normalised` is that over the normalised
    form's. Source: contract S1.

    >>> claim("strength_at_threshold", "tanh", "normalised", Printed("0.482", 3), "code").verdict
    'consistent'
    """
    ours = strength(scaler, form, backend=backend)
    if name == "strength_over_normalised":
        ours = round(ours / strength(scaler, "normalised", backend=backend), 6)
    exact = Fraction(repr(ours))
    return Row(
        target="figure2",
        claim=name,
        kind="arithmetic",
        row=scaler,
        column=form,
        published=stated.text,
        read_from=read_from,
        **{**judge_arithmetic(stated, exact, exact).columns(), "ours": ours},  # type: ignore[arg-type]
    )


# The picture

LINES: Mapping[str, Mapping[str, Any]] = {
    "ste": {"color": "#808080", "linestyle": (0, (1, 1.4)), "linewidth": 1.8},
    "pbgs": {"color": "#CC79A7", "linestyle": (0, (5, 1.5, 1, 1.5)), "linewidth": 2.2, "zorder": 4},
    "ewgs": {"color": "#000000", "linestyle": "solid", "linewidth": 1.6},
    "acos": {"color": "#0072B2", "linestyle": (0, (5, 1.6)), "linewidth": 2.2, "zorder": 3},
    "tanh": {"color": "#56B4E9", "linestyle": "solid", "linewidth": 3.0},
    "invtanh": {"color": "#B84A00", "linestyle": "solid", "linewidth": 3.0},
}
"""Told apart by colour with any kind of colour vision, by dashes and width in grey."""
REGISTERED_COLOURS = ("#009E73", "#E69F00", "#8C6D1F")
TITLES: Mapping[Form, str] = {
    "drawn": "Drawn: the paper's Figure 2",
    "printed": "Printed: its formulas",
    "normalised": "Normalised: the authors' code",
}


def line(name: str) -> Mapping[str, Any]:
    """How the curve of a scaler is drawn; one that users have registered gets a colour and dashes that are free."""
    if name in LINES:
        return LINES[name]
    colour = REGISTERED_COLOURS[(scalers().index(name) - len(SCALERS)) % len(REGISTERED_COLOURS)]
    return {"color": colour, "linestyle": (0, (3, 1, 1, 1, 1, 1)), "linewidth": 2.2}


def picture(backend: str = "reference") -> Figure:
    """The figure: a panel for each form on one scale, bold for a positive gradient, thin for a negative one."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with render.style():
        figure = Figure(figsize=(12.8, 5.6))
        panels = dict(zip(FORMS, figure.subplots(1, 3, sharey=True), strict=True))
        for form, axes in panels.items():
            _panel(axes, form, backend)
        panels["drawn"].set_ylabel("multiplier s of the gradient")
        _note(panels["drawn"], f"gradient passed on = g · s\nδ = {DELTA}")
        _note(panels["printed"], "thick: g > 0\nthin: g < 0")
        _note(panels["normalised"], "thick: g > 0\nthin: g < 0")
        times = strength("invtanh", "printed", backend=backend) / strength("invtanh", "normalised", backend=backend)
        colour = LINES["invtanh"]["color"]
        _note(panels["printed"], f"invtanh: {times:.2f} ×\nas normalised", x=0.87, ha="right", color=colour)
        curves = [Line2D([], [], label=name, **line(name)) for name in scalers()]
        figure.legend(handles=curves, loc="outside upper center", ncols=len(curves), fontsize=13, handlelength=3)
    return figure


def _panel(axes: Axes, form: Form, backend: str) -> None:
    from matplotlib.ticker import MaxNLocator

    aside: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 9.5, "color": "#606060"}
    for side in (-1, 1):
        axes.axvspan(side * THRESHOLD, side * 0.58, color="#EDEDED", linewidth=0)
        axes.text(side * 0.54, 0, "decision threshold", **aside)
    axes.axvline(0, color="#BBBBBB", linewidth=0.8)
    for name in scalers():
        if form in forms(name):
            positive, negative = ((curve(name, form, sign, backend=backend) - 1) / DELTA for sign in (1, -1))
            axes.plot(ERRORS, positive, solid_capstyle="butt", **line(name))
            if not np.array_equal(positive, negative):
                axes.plot(ERRORS, negative, color=line(name)["color"], linewidth=0.9)
    ends = [abs(strength(name, form, backend=backend)) for name in SCALERS if name != "ste"]
    low, high = f"{min(ends):.2f}", f"{max(ends):.2f}"
    axes.set_title(TITLES[form], fontweight="bold", pad=24)
    axes.text(0, 1.025, f"|s − 1| at the threshold: {low}{f' to {high}' * (low != high)} δ", transform=axes.transAxes)
    axes.set_xlim(-0.58, 0.58)
    axes.set_xticks((-0.5, -0.25, 0, 0.25, 0.5), ("−0.5", "−0.25", "0", "0.25", "0.5"))
    axes.set_xlabel("rounding error e, in steps (0: on the grid)")
    axes.yaxis.set_major_locator(MaxNLocator(9, steps=(1, 2, 5, 10)))
    axes.yaxis.set_major_formatter(lambda k, _: in_deltas(k))


def _note(axes: Axes, text: str, x: float = 0.1, **how: Any) -> None:
    how = {"va": "top", "linespacing": 1.4, "color": "#404040", **how}
    axes.text(x, 0.95, text, transform=axes.transAxes, **how)


def in_deltas(k: float) -> str:
    """A multiplier 1 + k delta as text.

    >>> in_deltas(0), in_deltas(1), in_deltas(-0.5)
    ('1', '1 + δ', '1 − 0.5 δ')
    """
    if k == 0:
        return "1"
    return f"1 {'+' if k > 0 else '−'} {'' if abs(k) == 1 else f'{abs(k):g} '}δ"


# The target


@dataclass(frozen=True)
class Figure2:
    """The target; `backend` computes the printed and normalised forms."""

    name: str = "figure2"
    title: str = "Gradient scalers: multiplier against rounding error"
    kind: str = "figure"
    needs: tuple[str, ...] = ()
    artefact: str = ""
    values_unit: str = "delta"
    scales: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    backend: str = "reference"

    def with_backend(self, name: str) -> Figure2:
        """The same figure computed by another backend; raises what `backends.get` does."""
        backends.get(name)
        return replace(self, backend=name)

    def units(self, scale: str, seeds: int, settings: Mapping[str, Scalar]) -> list[Unit]:
        """None: nothing is trained."""
        return []

    def run(self, unit: Unit, context: Context) -> Outcome:
        """Never called."""
        raise NotImplementedError("figure2 trains nothing")

    def rows(self, evidence: Evidence) -> list[Row]:
        """Every number that is stated of the curves, judged."""
        return [
            claim(row["claim"], row["scaler"], row["form"], row["value"], row["read_from"], self.backend)  # type: ignore[arg-type]
            for row in read("figure2")
        ]

    def render(self, evidence: Evidence, folder: Path) -> list[Path]:
        """`figure2.csv` (claims), `figure2_points.csv` (curves), `figure2.md`, `figure2.png`, `figure2.svg`."""
        points = render.csv_text(POINTS, self.points(), digits=10)
        fingerprint = render.fingerprint(renderer=DRAWING, texts=[points])
        text = f"# Figure 2: {self.title.lower()}\n\n![Figure 2](figure2.png)\n\n{self._text(evidence)}"
        return [
            render.write_csv(self.rows(evidence), folder / "figure2.csv"),
            write_text(folder / "figure2_points.csv", points),
            write_text(folder / "figure2.md", text),
            *render.save_figure(picture(self.backend), folder / "figure2", fingerprint),
        ]

    def summary(self, committed: Evidence, local: Evidence) -> str:
        """The strengths in the three forms and the claims, as Markdown; there are no runs to set beside them."""
        return self._text(local)

    def points(self) -> list[tuple[object, ...]]:
        """The plotted points, in the order of `POINTS`; both signs, except of the drawn form, which has none."""
        return [
            (name, form, DELTA, None if form == "drawn" else Scaler(name).alpha, sign or "", float(e), float(s))
            for name in scalers()
            for form in forms(name)
            for sign in ((0,) if form == "drawn" else (1, -1))
            for e, s in zip(ERRORS, curve(name, form, sign, backend=self.backend), strict=True)
        ]

    def _strength(self, name: str, form: Form) -> float:
        return strength(name, form, backend=self.backend)

    def _text(self, evidence: Evidence) -> str:
        strengths = [
            (name, *(render.number(self._strength(name, form), 3) if form in forms(name) else "" for form in FORMS))
            for name in scalers()
        ]
        rows = self.rows(evidence)
        claims = [(r.claim, r.row, r.column, r.published, render.number(r.ours, 4), r.verdict) for r in rows]
        return "\n".join(
            (
                CAPTION.format(delta=DELTA, backend=self.backend),
                render.markdown_table(("scaler", *(f"{form} / δ" for form in FORMS)), strengths, "lrrr"),
                f"Claims: {rollup(rows)}.\n",
                render.markdown_table(("claim", "scaler", "form", "stated", "ours", "verdict"), claims, "lllrrl"),
            )
        )


CAPTION = """\
The gradient g that reaches a quantizer is passed on as g · s. The multiplier s depends on the rounding error e, the
distance from the grid in steps (0 on the grid, ±0.5 where the code changes), and for `ewgs`, `tanh` and `invtanh` on
the sign of g: thin curves are those of a negative gradient. δ = {delta}; computed by the backend `{backend}`.

*Drawn* is what the paper's figure shows, from its drawing code: schematic, and no form that anything trains with.
*Printed* are the paper's formulas, *normalised* the authors' released code. A result has to say which it used.

s − 1 at the threshold e = 0.5 for g > 0:
"""

TARGET = Figure2()
