"""The units of Figure 4: every released pair, in balanced pieces, with the settings that matter to each."""

from __future__ import annotations

import pytest

from backends.contract import register_scaler, unregister_scaler
from repro.errors import UsageError
from repro.evidence.preregistration import preregistered
from repro.figure4 import NETWORKS, TARGET
from repro.figure4.cells import printed
from repro.places import PREREGISTRATION
from repro.published import read
from repro.targets import Unit, planned


def by_name(units: list[Unit]) -> dict[str, Unit]:
    return {unit.name: unit for unit in units if unit.seed == 0}


def test_every_released_pair_is_trained_at_every_width_that_the_network_has() -> None:
    names = by_name(planned(TARGET, "cpu", 1))
    for row in read("figure4"):
        for network in NETWORKS.values():
            name = f"{network.name}_{row['bits']}bit_{row['weight_scaler']}_{row['activation_scaler']}"
            assert (name in names) == (row["bits"] in network.bits(TARGET.scales["cpu"]))
    assert len(names) == 2 + (18 + 6 + 6) + (18 + 6) + 3


def test_ten_mixed_pairs_and_eight_alike_at_3_bits() -> None:
    three = [cell for cell in printed() if cell.bits == 3]
    assert sum(cell.weights != cell.activations for cell in three) == 10
    assert sum(cell.weights == cell.activations for cell in three) == 8


def test_no_pair_has_its_second_seed_before_all_have_their_first() -> None:
    seeds = [unit.seed for unit in planned(TARGET, "cpu")]
    assert seeds == sorted(seeds)


def test_lite0_has_fewer_seeds_and_both_have_a_start_for_each() -> None:
    units = planned(TARGET, "cpu")
    starts = {name: sum(unit.name == name for unit in units) for name in ("small_fp32", "lite0_fp32")}
    assert starts == {"small_fp32": 20, "lite0_fp32": 3}
    section, _ = preregistered(PREREGISTRATION, TARGET.name)
    assert section["lite0_seeds"] == TARGET.scales["cpu"]["lite0_seeds"]


def test_constants_change_only_the_units_that_use_them() -> None:
    before = by_name(planned(TARGET, "cpu", 1))

    def changed(**changes: str) -> set[str]:
        after = by_name(planned(TARGET, "cpu", 1, changes))
        return {name for name in before.keys() & after.keys() if before[name] != after[name]}

    by_delta = changed(delta="0.05")
    assert "small_3bit_ste_ste" not in by_delta
    assert {"small_3bit_ste_ewgs", "lite0_3bit_uniform_noise_uniform_noise"} <= by_delta
    assert "small_3bit_ewgs_ewgs_delta5e-04" not in by_delta
    assert changed(alpha="1.5") == {name for name in before if "tanh" in name}
    assert "small_3bit_ewgs_ewgs" in changed(form="printed")
    assert changed(small_lr="0.2") == {name for name in before if name.startswith(("small_3bit", "small_4bit"))}
    assert changed(small_lr_2bit="0.2") == {name for name in before if name.startswith("small_2bit")}
    assert "lite0_fp32" in changed(lite0_size="40")
    assert changed(operands="unquantized") == {name for name in before if "bit" in name}
    assert changed(networks="small", deltas="none", lite0_seeds="1") == set()


def test_the_sweep_leaves_out_the_delta_that_is_trained_anyway() -> None:
    names = by_name(planned(TARGET, "cpu", 1, {"delta": "5e-2"}))
    assert [name for name in names if "_delta" in name] == [
        "small_3bit_ewgs_ewgs_delta5e-04",
        "small_3bit_ewgs_ewgs_delta5e-01",
    ]


def test_a_users_scaler_is_trained_by_name() -> None:
    @register_scaler("cubic")
    def cubic(xp, grad, error, delta, alpha):  # type: ignore[no-untyped-def]
        return 1 + delta * xp.sign(grad) * error**3

    try:
        names = by_name(planned(TARGET, "cpu", 1, {"pairs": "cubic/ste, ste/ste", "deltas": "none"}))
    finally:
        unregister_scaler("cubic")
    assert list(names) == [
        "small_fp32", "small_3bit_cubic_ste", "small_3bit_ste_ste", "lite0_fp32", "lite0_3bit_cubic_ste",
        "lite0_3bit_ste_ste",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"networks": "smal"}, "did you mean small"),
        ({"pairs": "ewsg/ste"}, "did you mean ewgs"),
        ({"pairs": "ewgs"}, "pairs=ewgs: give published, or weights/activations"),
        ({"form": "normalized"}, "did you mean normalised"),
        ({"operands": "float"}, "operands=float"),
        ({"delta": "-1"}, "delta must be finite and not negative"),
        ({"alpha": "2"}, "alpha of invtanh must be below 2"),
        ({"alpha": "high"}, "alpha"),
        ({"deltas": "5e-4;1"}, "deltas="),
        ({"small_lr": "-1"}, "small_lr=-1.0: give a value from 0 to 10"),
        ({"lite0_batch": "20000"}, "lite0_batch=20000: give at most"),
        ({"lite0_seeds": "0"}, "lite0_seeds=0"),
        ({"small_epoch": "1"}, "did you mean small_epochs"),
        ({"deltas": "1.2e-3,1.4e-3"}, "give numbers that differ in their first digit"),
        ({"lite0_bits": "3,5"}, "lite0_bits=3,5: give some of 3,2,4"),
        ({"data": "image_net"}, "did you mean imagenet"),
        ({"classes": "100"}, "classes=100: CIFAR-10 has 10"),
        ({"small_test_images": "20000"}, "small_test_images=20000: CIFAR-10 has 10000"),
    ],
)
def test_impossible_settings_are_one_line(change: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        planned(TARGET, "cpu", 1, change)
