"""The target `identification`: candidates, their units, and a misfit by hand."""

from __future__ import annotations

import numpy as np
import pytest

from repro import identification
from repro.adaptive.methods import BITS
from repro.identification import ALPHAS, FROM_FLOAT, PROBLEMS, SCHEMES, TARGET, TRUNCATED, misfit
from repro.published import table
from repro.targets import Context, Unit, planned
from tests.made_up import evidence, record_of

TINY = {
    "width": "8", "width_multiplier": "0.25", "train_images": "64", "test_images": "40", "batch": "16",
    "fp32_epochs": "1", "epochs": "1", "alpha_images": "16", "bn_images": "32",
}  # fmt: skip


def test_units_are_every_scheme_and_clip_rule_for_both_tables() -> None:
    units = planned(TARGET, "cpu", 1)
    per_scheme = 1 + len(TRUNCATED) + len(ALPHAS) * len(FROM_FLOAT)
    assert len(units) == len({unit.name for unit in units}) == len(PROBLEMS) * (1 + len(SCHEMES) * per_scheme)
    found = {unit.name: unit for unit in units}
    assert found["table2-floor-dq8_bn_calib"].requires == ("table2-floor-individual_8",)
    assert found["table1-nested_restored-start-dq32"].requires == ("table1-fp32",)
    assert found["table1-nested-start-dq32"].settings["alpha_percentile"] is None
    assert "width" not in found["table2-fp32"].settings
    assert set(identification._units_of("nested/maximum")) < set(found)


def values_of(unit: Unit, error: float) -> dict[str, float]:
    """Half of what the print has above chance, which fits, and an error in points of what is left."""
    name, *_, method = unit.name.split("-")
    printed = table(name)
    top = (float(printed.cell("individual", 8)) - 10) / 2
    if method == "fp32":
        return {"32": 10 + top}
    if method == "individual_8":
        return {"8": 10 + top}
    return {str(bits): 10 + (float(printed.cell(method, bits)) - 10) / 2 + error * top / 100 for bits in BITS}


def test_misfit_compares_what_is_left_of_the_accuracy_at_full_strength() -> None:
    kept = evidence(
        TARGET,
        [
            record_of(unit, values_of(unit, error=3.0 * unit.seed))
            for unit in planned(TARGET, "cpu", 2)
            if unit.name.endswith("-fp32") or "-floor-" in unit.name
        ],
    )
    for names in (("table1",), tuple(PROBLEMS)):
        assert misfit(kept, "cpu", "floor", "maximum", names) == {0: pytest.approx(0), 1: pytest.approx(3)}
    assert misfit(kept, "cpu", "nested", "maximum", ("table1",)) == {}
    page = TARGET.summary(kept, evidence(TARGET))
    assert "| AdaBits " in page
    lines = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| AdaBits ")]
    assert [line[4] for line in lines] == ["2"] * 3
    assert [line[5] for line in lines] == ["", "+0.0 (+0.0 to +0.0), a tie", "+0.0 (+0.0 to +0.0), a tie"]
    assert {line[8] for line in lines} == {"32.0 ± 0.0"}
    assert "| nested codes, means" not in page
    (row,) = [row for row in TARGET.rows(kept) if row.claim == "nested_fits_best"]
    assert (row.state, row.verdict) == ("missing", "")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_gives_few_values_and_its_own(scheme: str) -> None:
    import torch

    from repro.adaptive.settings import WEIGHTS
    from repro.networks.quantize import set_bits
    from repro.quantizers.schemes import weight as weight_of

    weight = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, 500)).float()
    found = {}
    assert tuple(SCHEMES) == WEIGHTS
    for name in SCHEMES:
        quantizer = weight_of(name)
        set_bits(quantizer, 2)
        found[name] = quantizer(weight)
    assert len(found[scheme].unique()) <= 4
    assert all(not torch.equal(found[scheme], other) for name, other in found.items() if name != scheme)


@pytest.mark.parametrize("name", PROBLEMS)
def test_units_really_run_with_their_scheme(name: str, tmp_path) -> None:
    units = {unit.name: unit for unit in planned(TARGET, "smoke", 1, TINY)}
    chain = ("fp32", "centred-individual_8", "centred-dq8", "centred-start-dq32_bn_calib")
    for unit in (f"{name}-{rest}" for rest in chain):
        folder = tmp_path / unit
        folder.mkdir()
        inputs = {required: tmp_path / required for required in units[unit].requires}
        outcome = TARGET.run(units[unit], Context(folder, inputs=inputs))
    assert set(outcome.values) == {"8", "6", "4", "2"}
