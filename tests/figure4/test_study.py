"""The statistics of Figure 4 on numbers whose answers are known, and on the released runs."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from repro.figure4.cells import Cell, printed
from repro.figure4.study import LEVELS, Study


def block(effects: dict[tuple[str, str], float], n: int = 8, noise: float = 0.0, flips: bool = True) -> Study:
    """A study of the 3 x 3 block with the given effects, seeds that add their own, and noise."""
    rng = np.random.default_rng(0)
    return Study(
        3,
        {
            Cell(3, a, b): {seed: 60 + seed + effects.get((a, b), 0.0) + noise * rng.normal() for seed in range(n)}
            for a in LEVELS
            for b in LEVELS
        },
        flips,
    )


class TestFactorial:
    def test_additive_effects_have_no_interaction(self) -> None:
        weights, activations = {"ewgs": 0.5, "invtanh": 0.4}, {"ewgs": 0.1, "invtanh": -0.2}
        study = block({(a, b): weights.get(a, 0) + activations.get(b, 0) for a in LEVELS for b in LEVELS})
        found = {name: interval.estimate for name, interval in study.effects.items()}
        assert found == pytest.approx(
            {"weights_ewgs": 0.5, "weights_invtanh": 0.4, "activations_ewgs": 0.1, "activations_invtanh": -0.2}
            | {f"interaction_{a}_{b}": 0.0 for a in LEVELS[1:] for b in LEVELS[1:]}
        )

    def test_one_odd_cell_is_an_interaction(self) -> None:
        found = block({("ewgs", "invtanh"): 3.0}).effects
        assert found["interaction_ewgs_invtanh"].estimate == pytest.approx(3)
        assert found["weights_ewgs"].estimate == pytest.approx(1)
        assert found["activations_invtanh"].estimate == pytest.approx(1)

    def test_a_missing_cell_leaves_no_effects(self) -> None:
        study = block({})
        assert Study(3, {c: v for c, v in study.cells.items() if c.pair != "ewgs/ewgs"}, True).effects == {}

    def test_few_seeds_get_bonferronis_intervals(self) -> None:
        three, eight = (block({}, n, noise=0.2).effects["weights_ewgs"] for n in (3, 8))
        assert three.low is not None and eight.low is not None  # noqa: PT018
        assert three.high - three.low > 3 * (eight.high - eight.low)  # type: ignore[operator]


class TestDifferences:
    def test_seeds_that_all_share_drop_out(self) -> None:
        found = block({("ewgs", "ste"): 0.5}).differences
        assert found[Cell(3, "ewgs", "ste")].estimate == pytest.approx(0.5)
        assert found[Cell(3, "ewgs", "ste")].sd == pytest.approx(0, abs=1e-9)
        assert Cell(3, "ste", "ste") not in found

    def test_only_common_seeds_count(self) -> None:
        study = block({}, n=8, noise=0.1)
        cells = dict(study.cells) | {Cell(3, "ewgs", "ste"): {0: 1.0, 1: 2.0}}
        assert Study(3, cells, True).seeds == [0, 1]

    @pytest.mark.parametrize(
        "cells", [{}, {Cell(3, "ewgs", "ste"): {0: 1.0}}, {Cell(3, "ste", "ste"): {0: 1.0, 1: 2.0}}]
    )
    def test_without_control_or_seeds_there_are_none(self, cells: dict[Cell, dict[int, float]]) -> None:
        study = Study(3, cells, True)
        assert study.differences == {}
        assert study.effects == {}
        assert study.mean_correlation is None
        assert study.sd_of_difference is None

    def test_below_six_seeds_dunnett_stands_in_for_sign_flips(self) -> None:
        study = block({}, n=4, noise=0.2)
        as_print = Study(3, study.cells, flips=False)
        assert study.differences == as_print.differences


class TestPairing:
    def test_arms_of_one_seed_are_correlated_when_seeds_differ(self) -> None:
        study = block({}, n=8, noise=0.1)
        assert study.mean_correlation is not None and study.mean_correlation > 0.99  # noqa: PT018
        assert study.pairing(Cell(3, "ewgs", "ewgs")).variance_ratio < 0.01  # type: ignore[operator]
        assert study.sd_of_difference == pytest.approx(0.1 * 2**0.5, rel=0.4)


class TestReleasedRuns:
    study = Study(3, {cell: found.values for cell, found in printed().items() if cell.bits == 3}, False)

    def test_pairs_that_survive_the_correction(self) -> None:
        """As the seminar reads them: ewgs, invtanh, tanh on both separate from STE; acos and noise do not."""
        separate = {cell.pair for cell, found in self.study.differences.items() if found.low > 0}  # type: ignore[operator]
        assert {"ewgs/ewgs", "invtanh/invtanh", "tanh/tanh", "ewgs/invtanh"} <= separate
        assert not {pair for pair in separate if "acos" in pair or "noise" in pair}

    def test_the_winner_and_those_that_cannot_be_told_from_it(self) -> None:
        assert Cell(3, "ewgs", "invtanh") not in self.study.behind
        told = {cell.pair for cell, found in self.study.behind.items() if found.high < 0}  # type: ignore[operator]
        assert "ste/ste" in told
        assert not {"ewgs/ewgs", "ewgs/ste", "invtanh/invtanh"} & told

    def test_effects_are_those_of_the_means(self) -> None:
        means = {cell: statistics.fmean(values.values()) for cell, values in self.study.cells.items()}
        by_hand = statistics.fmean(means[Cell(3, "ewgs", b)] - means[Cell(3, "ste", b)] for b in LEVELS)
        assert self.study.effects["weights_ewgs"].estimate == pytest.approx(by_hand)

    def test_runs_of_one_seed_are_not_correlated(self) -> None:
        assert abs(self.study.mean_correlation) < 0.1  # type: ignore[arg-type]
