"""The scaler table: clauses S1 to S5."""

from __future__ import annotations

import csv
import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from backends import Scaler, UnknownNameError, contract, reference
from backends.contract import NOISE_CONTROLS, SCALERS, ewgs_delta, register_scaler, scaler_names, unregister_scaler
from tests.backends import tolerances
from tests.backends.cases import Case, assert_equal

with (Path(__file__).parent / "scaler_oracle.csv").open() as file:
    ORACLE = list(csv.DictReader(file))


class TestTable:
    def test_S1_oracle_covers_every_scaler_in_both_forms(self) -> None:
        covered = {(row["scaler"], row["form"]) for row in ORACLE}
        assert covered == {(name, form) for name in SCALERS for form in ("printed", "normalised")}

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_S1_multipliers_equal_those_in_fifty_digits(self, backend: Case, dtype: type) -> None:
        for row in ORACLE:
            alpha = float(row["alpha"]) if row["alpha"] else None
            scaler = Scaler(row["scaler"], float(row["delta"]), alpha, row["form"])
            grad, error = (np.array([float(row[column])], dtype) for column in ("grad_sign", "error"))
            found, expected = backend.multiplier(scaler, grad, error), float(row["multiplier"])
            assert found.dtype == dtype
            bound = tolerances.multiplier(scaler, np.array(expected), 0.5)  # e itself is rounded to the dtype
            assert abs(float(found[0]) - expected) <= bound * np.finfo(dtype).eps / np.finfo(np.float32).eps, row

    @pytest.mark.parametrize("name", SCALERS)
    def test_S1_no_incoming_gradient_means_no_direction(self, backend: Case, name: str) -> None:
        """sign(0) = 0: the scalers that look at the sign of g leave a zero gradient at exactly 1."""
        s = backend.multiplier(Scaler(name), np.float32([0.0, -0.0]), np.float32([0.5, 0.5]))
        expected = 1 + Scaler(name).delta * {"pbgs": 0.5, "acos": 1.0}.get(name, 0.0)
        assert_equal(s, np.float32([expected, expected]))

    @pytest.mark.parametrize("name", SCALERS)
    def test_S1_multiplier_at_no_error_is_one(self, backend: Case, name: str) -> None:
        for form in ("printed", "normalised"):
            s = backend.multiplier(Scaler(name, form=form), np.float32([2.0, -3.0]), np.float32([0.0, 0.0]))
            assert_equal(s, np.float32([1.0, 1.0]))

    @pytest.mark.parametrize("name", [name for name in SCALERS if name not in ("ste", "tanh")])
    def test_S1_normalised_curves_end_at_half_of_delta(self, name: str) -> None:
        assert self.at_threshold(name, "normalised") == pytest.approx(0.5, rel=tolerances.FORMULA_64)

    def test_S1_normalised_tanh_ends_a_little_lower(self) -> None:
        assert round(self.at_threshold("tanh", "normalised"), 3) == 0.482

    def test_S1_printed_invtanh_is_several_times_the_normalised_one(self) -> None:
        ratio = self.at_threshold("invtanh", "printed") / self.at_threshold("invtanh", "normalised")
        assert round(ratio, 2) == 3.66

    @staticmethod
    def at_threshold(name: str, form: str) -> float:
        """(s - 1) / delta at e = 0.5 for a positive gradient; delta = 1, so that nothing cancels."""
        return float(reference.multiplier(Scaler(name, 1.0, form=form), np.ones(1), np.array([0.5]))[0]) - 1

    @pytest.mark.parametrize("name", ["ste", "pbgs", "ewgs"])
    def test_S1_forms_that_are_the_same(self, backend: Case, name: str) -> None:
        g, e = np.float32([1.0, -2.0, 0.5]), np.float32([0.5, 0.3, -0.2])
        printed, normalised = (backend.multiplier(Scaler(name, form=form), g, e) for form in ("printed", "normalised"))
        assert_equal(printed, normalised)

    @pytest.mark.parametrize("name", SCALERS)
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_multiplier_is_like_grad(self, backend: Case, name: str, dtype: type) -> None:
        for shape in ((), (0,), (2, 3)):
            grad = np.ones(shape, dtype)
            s = backend.multiplier(Scaler(name, form="normalised"), grad, np.full(shape, 0.25, dtype))
            assert s.dtype == dtype
            assert s.shape == shape

    def test_multiplier_of_integers_raises(self, backend: Case) -> None:
        with pytest.raises(TypeError, match="int32"):
            backend.multiplier(Scaler("ewgs"), np.ones(2, np.int32), np.ones(2, np.float32))


class TestDrawn:
    def test_S1b_curves_of_figure_2(self) -> None:
        e = np.array([-0.5, 0.0, 0.25, 0.5])
        expected = {
            "ste": [0, 0, 0, 0],
            "pbgs": [1, 0, 0.5, 1],
            "ewgs": [-1, 0, 0.5, 1],
            "acos": [-1, 0, math.sin(math.pi / 4), 1],
            "tanh": [-math.tanh(4), 0, math.tanh(2), math.tanh(4)],
            "invtanh": [-math.atanh(1 / 1.05) / 1.85, 0, math.atanh(0.5 / 1.05) / 1.85, math.atanh(1 / 1.05) / 1.85],
        }
        assert tuple(expected) == SCALERS
        for name, values in expected.items():
            drawn = reference.drawn_curve(name, e, delta=0.5)
            np.testing.assert_allclose(drawn, 0.5 * np.array(values), rtol=tolerances.FORMULA_64)

    def test_S1b_is_no_form_of_a_scaler(self) -> None:
        with pytest.raises(ValueError, match="form must be one of printed, normalised, got form='drawn'"):
            Scaler("ewgs", form="drawn")  # type: ignore[arg-type]

    def test_S1b_unknown_name_raises(self) -> None:
        with pytest.raises(UnknownNameError, match="no drawn curve of scaler 'gaussian_noise'"):
            reference.drawn_curve("gaussian_noise", [0.0])


class TestValidation:
    def test_defaults_are_the_authors(self) -> None:
        assert Scaler("ewgs") == Scaler("ewgs", delta=5e-3, alpha=None, form="printed")
        assert Scaler("tanh").alpha == 4
        assert Scaler("invtanh").alpha == 1.9

    @pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
    @pytest.mark.parametrize("name", ["tanh", "invtanh"])
    def test_S2_alpha_must_be_positive_and_finite(self, name: str, alpha: float) -> None:
        with pytest.raises(ValueError, match=f"alpha must be positive and finite, got alpha={alpha}"):
            Scaler(name, alpha=alpha)

    @pytest.mark.parametrize("alpha", [2.0, 3.0, 2 - 1e-12])
    def test_S2_alpha_of_invtanh_is_below_two_in_float32_too(self, alpha: float) -> None:
        with pytest.raises(ValueError, match="alpha of invtanh must be below 2"):
            Scaler("invtanh", alpha=alpha)

    def test_S2_largest_alpha_of_invtanh_is_finite_at_a_tie(self, backend: Case) -> None:
        scaler = Scaler("invtanh", alpha=float(np.nextafter(np.float32(2), np.float32(0))))
        assert np.isfinite(backend.multiplier(scaler, np.float32([1.0]), np.float32([0.5]))).all()

    def test_S2_alpha_of_tanh_may_exceed_two(self) -> None:
        assert Scaler("tanh", alpha=7.0).alpha == 7

    @pytest.mark.parametrize("delta", [-1e-9, -1.0, math.nan, math.inf])
    def test_S2_delta_must_not_be_negative(self, delta: float) -> None:
        with pytest.raises(ValueError, match=f"delta must be finite and not negative, got delta={delta}"):
            Scaler("ewgs", delta=delta)

    def test_S2_an_alpha_that_nothing_uses_raises(self) -> None:
        with pytest.raises(ValueError, match="'ewgs' has no alpha"):
            Scaler("ewgs", alpha=4.0)

    def test_unknown_name_raises_with_the_known_and_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match=r"unknown scaler 'tanhh': known are ste, .*did you mean 'tanh'\?"):
            Scaler("tanhh")

    def test_is_frozen_and_hashable(self) -> None:
        assert len({Scaler("ste"), Scaler("ste"), Scaler("ewgs")}) == 2


class TestEwgsConversion:
    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    def test_S3_original_ewgs_on_the_unit_grid(self, bits: int) -> None:
        """g * (1 + delta * sign(g) * (x_n - x_q)) on [0, 1] is ours with the delta converted."""
        generator = np.random.default_rng(bits)
        original_delta, levels = 0.2, 2**bits - 1
        x_n, g = generator.random(100), generator.standard_normal(100)
        x_q = np.rint(x_n * levels) / levels
        original = 1 + original_delta * np.sign(g) * (x_n - x_q)
        ours = reference.multiplier(
            Scaler("ewgs", ewgs_delta(original_delta, bits)), g, x_n * levels - np.rint(x_n * levels)
        )
        np.testing.assert_allclose(ours, original, rtol=tolerances.FORMULA_64)


class TestIndependence:
    def test_S5_backends_write_the_table_each_for_itself(self) -> None:
        """Neither loads the other, so neither can be compared with itself (the reverse: `test_registry`)."""
        script = "import sys, backends.eager; assert 'backends.reference' not in sys.modules"
        subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture
def cubic() -> Iterator[list[object]]:
    """A registered scaler 1 + delta * sign(g) * (alpha * e)**3; yields the list of array modules it was run with."""
    calls: list[object] = []

    @register_scaler("cubic", alpha=2.0)
    def function(xp, grad, error, delta, alpha):  # type: ignore[no-untyped-def]
        calls.append(xp)
        return 1 + delta * xp.sign(grad) * (alpha * error) ** 3

    yield calls
    unregister_scaler("cubic")


class TestRegistered:
    def test_S5_runs_in_both_backends(self, backend: Case, cubic: list[object]) -> None:
        x, g = np.float32([0.375, -0.25, 0.75, 9.0]), np.float32([1.0, -2.0, 0.0, 1.0])
        scaler = Scaler("cubic", delta=1.0)
        assert_equal(backend.multiplier(scaler, g, np.float32([-0.25, -0.5, 0.5, 0.0])), np.float32([0.875, 2, 1, 1]))
        gradients = backend.backward(g, x, 0.5, -1.0, 1.5, scaler=scaler)
        assert_equal(gradients.x, np.float32([0.875, -4.0, 0.0, 0.0]))
        assert cubic == [np if backend.name == "reference" else torch] * 2

    def test_S5_has_its_own_default_alpha_and_one_formula(self, backend: Case, cubic: list[object]) -> None:
        assert Scaler("cubic").alpha == 2
        assert Scaler("cubic", alpha=1.0).alpha == 1
        assert "cubic" in scaler_names()
        g, e = np.float32([1.0]), np.float32([0.5])
        printed, normalised = (backend.multiplier(Scaler("cubic", form=f), g, e) for f in ("printed", "normalised"))
        assert_equal(printed, normalised)

    def test_S5_a_name_that_is_taken_raises(self, cubic: list[object]) -> None:
        for name in ("cubic", "ste", "uniform_noise"):
            with pytest.raises(ValueError, match=f"{name!r} exists already"):
                register_scaler(name)(lambda xp, grad, error, delta, alpha: grad)

    def test_S5_a_result_of_another_shape_raises(self, backend: Case) -> None:
        register_scaler("scalar")(lambda xp, grad, error, delta, alpha: xp.ones(1))
        try:
            with pytest.raises(ValueError, match="the result of scaler 'scalar' has shape"):
                backend.multiplier(Scaler("scalar"), np.ones(2, np.float32), np.ones(2, np.float32))
        finally:
            unregister_scaler("scalar")

    @pytest.mark.parametrize(
        "source",
        [
            "from backends.contract import register_scaler\n@register_scaler('plugged', alpha=3.0)\n",
            "",
        ],
        ids=["decorated", "plain"],
    )
    def test_S5_from_another_package_by_entry_point(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        module = f"plugged_{bool(source)}"
        function = "def f(xp, grad, error, delta, alpha):\n    return 1 + delta * xp.abs(grad)\n"
        (tmp_path / f"{module}.py").write_text(source + function)
        info = tmp_path / "plugged-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{contract.ENTRY_POINTS}]\nplugged = {module}:f\n")
        monkeypatch.syspath_prepend(tmp_path)
        assert "plugged" in scaler_names()
        try:
            scaler = Scaler("plugged", delta=0.5)
            assert scaler.alpha == (3.0 if source else None)
            assert reference.multiplier(scaler, [2.0], [0.0]) == [2.0]
            sent = pickle.dumps(scaler)
            unregister_scaler("plugged")  # as in a process that has just started
            assert reference.multiplier(pickle.loads(sent), [2.0], [0.0]) == [2.0]
        finally:
            unregister_scaler("plugged")


@pytest.mark.parametrize(
    ("entry", "source", "reason"),
    [
        ("broken:g", "", "has no attribute 'g'"),
        ("broken:f", "def f(grad): ...", "takes 1 positional argument"),
        ("broken:f", "def f(xp, grad, error, delta, alpha): return xp.nowhere(grad)", "has no attribute 'nowhere'"),
        ("broken:f", "def f(xp, grad, error, delta, alpha): return grad / 0", "of two numbers it makes"),
        ("broken:f", "raise SystemExit('no licence')", "no licence"),
    ],
)
def test_S5_a_package_whose_scaler_cannot_serve_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, source: str, reason: str
) -> None:
    (tmp_path / "broken.py").write_text(f"{source}\n")
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{contract.ENTRY_POINTS}]\nbroken = {entry}\newgs = {entry}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    for _ in range(2):
        with np.errstate(all="ignore"), pytest.raises(contract.ScalerError, match="theirs: scaler 'broken'") as error:
            Scaler("broken")
        assert reason in str(error.value)
    assert scaler_names().count("ewgs") == 1


def test_S4_noise_controls_are_scalers_that_need_noise() -> None:
    assert [name for name in scaler_names() if Scaler(name).needs_noise] == list(NOISE_CONTROLS)
