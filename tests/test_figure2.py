"""Figure 2: its curves are the contract's, its files are deterministic, and it needs no torch."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import backends
from backends.contract import SCALERS, Scaler, register_scaler, unregister_scaler
from repro import figure2
from repro.errors import explain
from repro.evidence import render
from repro.evidence.collection import Evidence
from repro.figure2 import ERRORS, TARGET, curve
from repro.published import Printed
from tests.backends import tolerances

pytestmark = pytest.mark.usefixtures("coarse")

NOTHING = Evidence("figure2", wanted=(), records=())
ORACLE = Path(__file__).parent / "backends" / "scaler_oracle.csv"
FILES = ["figure2.csv", "figure2_points.csv", "figure2.md", "figure2.png", "figure2.svg"]
FLOAT64 = 4 * 2.0**-53
"""Relative: the addition to 1, and what the curve's own few roundings are worth after multiplying by delta."""


@contextmanager
def registered() -> Iterator[str]:
    """A scaler of a user's: as strong as `ewgs` at the threshold."""

    @register_scaler("cubic")
    def function(xp: Any, grad: Any, error: Any, delta: float, alpha: float | None) -> Any:
        return 1 + delta * xp.sign(grad) * 4 * error**3

    yield "cubic"
    unregister_scaler("cubic")


@pytest.fixture
def cubic() -> Iterator[str]:
    with registered() as name:
        yield name


class TestCurves:
    def test_equal_the_oracle_where_both_have_a_point(self) -> None:
        with ORACLE.open() as file:
            oracle = {
                (row["scaler"], row["form"], int(row["grad_sign"]), float(row["error"])): float(row["multiplier"])
                for row in csv.DictReader(file)
            }
        points = {(name, form, sign, e): s for name, form, _, _, sign, e, s in TARGET.points()}
        assert len(oracle) == 216
        for key, expected in oracle.items():
            assert points[key] == pytest.approx(expected, rel=FLOAT64, abs=0), key

    def test_drawn_ones_are_those_of_the_drawing_code(self) -> None:
        """With u = 2e, each by another identity than the reference's formula."""
        u = 2 * ERRORS
        expected = {
            "ste": 0 * u,
            "pbgs": np.sqrt(u**2),
            "ewgs": u,
            "acos": np.cos(np.pi * (1 - u) / 2),
            "tanh": 1 - 2 / (1 + np.exp(8 * u)),
            "invtanh": np.log((1.05 + u) / (1.05 - u)) / 2 / 1.85,
        }
        for name in SCALERS:
            np.testing.assert_allclose(curve(name, "drawn"), 1 + figure2.DELTA * expected[name], rtol=FLOAT64, atol=0)

    @pytest.mark.parametrize("form", figure2.FORMS)
    def test_symmetries(self, form: figure2.Form) -> None:
        """ste is constant, pbgs even in e, the others odd about 1; ewgs, tanh and invtanh turn with the sign of g."""
        turning = set() if form == "drawn" else {"ewgs", "tanh", "invtanh"}
        for name in SCALERS:
            positive, negative = (curve(name, form, sign) - 1 for sign in (1, -1))
            parity = 1 if name in ("ste", "pbgs") else -1
            np.testing.assert_allclose(positive[::-1], parity * positive, rtol=0, atol=FLOAT64)
            np.testing.assert_allclose(negative, (-1 if name in turning else 1) * positive, rtol=0, atol=FLOAT64)
            assert positive[len(ERRORS) // 2] == 0
            assert np.any(positive) == (name != "ste")

    def test_abscissae_reach_the_threshold_on_both_sides_and_the_grid(self) -> None:
        assert ERRORS[[0, 50, -1]].tolist() == [-figure2.THRESHOLD, 0, figure2.THRESHOLD]
        assert np.array_equal(ERRORS, -ERRORS[::-1])


class TestOtherBackends:
    def test_eager_gives_the_same_points_within_float32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        eager, called = backends.get("eager"), []
        plain = eager.multiplier
        monkeypatch.setattr(eager, "multiplier", lambda *given: called.append(given) or plain(*given))
        theirs, ours = TARGET.with_backend("eager").points(), TARGET.points()
        assert len(called) == len(SCALERS) * 2 * 2
        for their, our in zip(theirs, ours, strict=True):
            assert their[:-1] == our[:-1]
            name, form, exact = our[0], our[1], np.float64(our[-1])
            if form == "drawn":
                assert their[-1] == exact
            else:
                assert abs(their[-1] - exact) <= tolerances.multiplier(Scaler(name, form=form), exact, our[-2])

    def test_eager_judges_the_claims_alike(self) -> None:
        verdicts = [[row.verdict for row in target.rows(NOTHING)] for target in (TARGET, TARGET.with_backend("eager"))]
        assert verdicts[0] == verdicts[1]

    def test_an_unknown_one_is_a_usage_error_with_the_nearest(self) -> None:
        with pytest.raises(backends.UnknownNameError, match="did you mean 'eager'") as found:
            TARGET.with_backend("eagr")
        assert explain(found.value)[0] == 2

    def test_one_that_cannot_serve_is_an_error_of_the_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def get(name: str) -> None:
            raise backends.BackendUnavailableError("no such device")

        monkeypatch.setattr(backends, "get", get)
        with pytest.raises(backends.BackendUnavailableError, match="no such device") as found:
            TARGET.with_backend("fused")
        assert explain(found.value)[0] == 3


class TestClaims:
    def test_all_that_is_stated_of_the_released_code_is_consistent(self) -> None:
        rows = TARGET.rows(NOTHING)
        assert [row.verdict for row in rows] == ["consistent"] * 6
        assert [row.row for row in rows] == [*(name for name in SCALERS if name != "ste"), "invtanh"]

    def test_the_last_printed_digit_decides(self) -> None:
        ours = figure2.strength("tanh", "normalised")
        for stated in ("0.481", "0.483", "0.5"):
            verdict = figure2.claim(
                "strength_at_threshold", "tanh", "normalised", Printed(stated, len(stated) - 2), ""
            ).verdict
            inside = abs(Fraction(ours) - Fraction(stated)) <= Fraction(1, 2 * 10 ** (len(stated) - 2))
            assert verdict == ("consistent" if inside else "disputed")

    def test_a_changed_curve_is_disputed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(figure2, "strength", lambda name, form, **_: 0.6 if form == "normalised" else 1.0)
        assert {row.verdict for row in TARGET.rows(NOTHING)} == {"disputed"}


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture is left empty: what it shows is not what the test is about."""
    monkeypatch.setattr(figure2, "picture", lambda *_: Figure())


class TestFiles:
    """That the same bytes come twice: `test_targets`."""

    def test_both_pictures_carry_a_fingerprint_of_the_curves(self, blank: None, tmp_path: Path) -> None:
        files = TARGET.render(NOTHING, tmp_path / "six")
        assert [path.name for path in files] == FILES
        *_, png, svg = files
        with registered():
            *_, other = TARGET.render(NOTHING, tmp_path / "seven")
        assert render.read_fingerprint(png) == render.read_fingerprint(svg) is not None
        assert render.read_fingerprint(other) != render.read_fingerprint(svg)

    def test_points_have_their_columns_and_every_curve_its_points(self, blank: None, tmp_path: Path) -> None:
        TARGET.render(NOTHING, tmp_path)
        with (tmp_path / "figure2_points.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert tuple(rows[0]) == figure2.POINTS
        assert len(rows) == len(SCALERS) * (1 + 2 * 2) * len(ERRORS)
        assert {row["form"] for row in rows if not row["grad_sign"]} == {"drawn"}

    def test_markdown_shows_the_picture_and_says_which_backend(self, blank: None, tmp_path: Path) -> None:
        TARGET.with_backend("eager").render(NOTHING, tmp_path)
        text = (tmp_path / "figure2.md").read_text()
        assert "![Figure 2](figure2.png)" in text
        assert "`eager`" in text
        assert "6 consistent" in TARGET.summary(NOTHING, NOTHING)

    def test_no_torch_and_no_matplotlib_before_it_draws(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from repro.figure2 import TARGET;"
            "assert not {'torch', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules);"
            "from repro.evidence import render; render.STYLE['savefig.dpi'] = 40;"
            "from repro.evidence.collection import Evidence; nothing = Evidence('figure2', (), ());"
            "TARGET.render(nothing, Path(sys.argv[1])); TARGET.summary(nothing, nothing);"
            "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


class TestRegisteredScalers:
    def test_appear_by_name_but_not_as_drawn(self, cubic: str, tmp_path: Path) -> None:
        points = [point for point in TARGET.points() if point[0] == cubic]
        assert {point[1] for point in points} == {"printed", "normalised"}
        assert max(point[-1] for point in points) == pytest.approx(1 + figure2.DELTA / 2)
        drawn, printed, normalised = figure2.picture().axes
        assert len(drawn.lines) == len(printed.lines) - 2 - 3 == len(normalised.lines) - 2 - 3
        assert cubic in [text.get_text() for text in figure2.picture().legends[0].get_texts()]
        assert f"| {cubic}" in TARGET.summary(NOTHING, NOTHING)

    def test_make_no_claims(self, cubic: str) -> None:
        assert cubic not in {row.row for row in TARGET.rows(NOTHING)}


def test_nothing_is_trained() -> None:
    assert TARGET.units("smoke", 1, {}) == []
    assert not TARGET.scales
