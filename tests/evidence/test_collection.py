"""Evidence: what of a store's records is wanted, in which state it is, and when a verdict may rest on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.evidence.collection import Evidence, Wanted, collect
from repro.evidence.preregistration import section_hash
from repro.evidence.records import Record, Store, settings_hash
from tests.made_up import SETTINGS, record, spoil


def wanted(seed: int, **changes: Any) -> Wanted:
    base = {"scale": "cpu", "unit": "u", "seed": seed, "settings_hash": settings_hash(SETTINGS), "numerics": 1}
    return Wanted(**(base | changes))


def of_unit(seed: int, **changes: Any) -> Record:
    return record(**({"unit": "u", "seed": seed, "values": {"8": 90.0 + seed}} | changes))


def test_evidence_takes_what_is_wanted_and_keeps_the_rest_apart(store: Store) -> None:
    records = [of_unit(2), of_unit(0), of_unit(1, settings={"width": 8}), of_unit(0, target="table8")]
    for one in records:
        store.write(one)
    found = collect("table9", [wanted(seed) for seed in (0, 1, 2)], store)
    assert found.records == (of_unit(0), of_unit(2))
    assert found.others == (of_unit(1, settings={"width": 8}),)
    assert list(found.seeds("cpu", "u")) == [0, 2]
    assert found.values("cpu", "u", "8") == {0: 90.0, 2: 92.0}
    assert found.best("cpu", "u", "2") == {0: 40.0, 2: 40.0}
    assert found.values("cpu", "u", "4") == found.values("gpu", "u", "8") == {}


def test_scales_come_smallest_first(store: Store) -> None:
    scales = ("paper", "smoke", "gpu")
    for scale in scales:
        store.write(of_unit(0, scale=scale))
    found = collect("table9", [wanted(0, scale=scale) for scale in (*scales, "cpu")], store)
    assert found.scales == ("smoke", "gpu", "paper")


def test_ok_when_every_wanted_seed_is_recorded(store: Store) -> None:
    store.write(of_unit(0))
    store.write(of_unit(1))
    store.write(of_unit(0, settings={"width": 8}))
    assert collect("table9", [wanted(0), wanted(1)], store).state("cpu", "u") == ("ok", "")


def test_missing_says_how_many_are_there(store: Store) -> None:
    store.write(of_unit(1))
    found = collect("table9", [wanted(seed) for seed in (0, 1, 2)], store)
    assert found.state("cpu", "u") == ("missing", "compute: 1 of 3 seeds recorded")
    assert found.state("cpu", "v")[0] == "missing"
    assert found.state("cpu", "v")[1].startswith("not built")


def test_stale_follows_the_version_of_the_numerics_and_not_the_commit(store: Store) -> None:
    store.write(of_unit(0, commit="old"))
    assert collect("table9", [wanted(0)], store).state("cpu", "u") == ("ok", "")
    found = collect("table9", [wanted(0, numerics=2)], store)
    assert found.state("cpu", "u") == ("stale", "recorded at numerics 1, now 2")
    assert found.values("cpu", "u", "8") == {0: 90.0}


def test_stale_when_recorded_with_other_settings(store: Store) -> None:
    other = of_unit(0, settings={"width": 8})
    store.write(other)
    found = collect("table9", [wanted(0)], store)
    assert found.state("cpu", "u") == ("stale", f"seed 0 was recorded with other settings ({other.settings_hash})")
    assert found.values("cpu", "u", "8") == {}


def test_error_when_a_wanted_record_is_damaged(store: Store) -> None:
    path = store.write(of_unit(0))
    store.write(of_unit(1))
    spoil(path, "90.0", "91.0")
    found = collect("table9", [wanted(0), wanted(1), wanted(2)], store)
    state, why = found.state("cpu", "u")
    assert state == "error"
    assert why.startswith(f"{path.name}: altered")
    assert [damaged.path for damaged in found.damaged] == [path]
    assert collect("table9", [wanted(1)], store).state("cpu", "u") == ("ok", "")


def test_a_plan_changed_after_the_run_shows(store: Store) -> None:
    plan = {"study": "exploratory", "margins": {"8": 0.5}}
    store.write(of_unit(0, preregistration=section_hash(plan)))
    assert collect("table9", [wanted(0)], store, plan).unregistered == ()
    moved = plan | {"margins": {"8": 5.0}}
    assert collect("table9", [wanted(0)], store, moved).unregistered == (
        replace(of_unit(0), preregistration=section_hash(plan)),
    )


PLAN = {"study": "confirmatory", "seeds": {"cpu": 2}}


def planned(store: Store, seeds: int = 2, **changes: Any) -> Evidence:
    """What is found where so many seeds are asked for, with changes, and two are planned."""
    return collect("table9", [wanted(s, **changes) for s in range(seeds)], store, PLAN, [wanted(0), wanted(1)])


def test_a_study_is_confirmatory_as_planned_alone(store: Store) -> None:
    other = {"width": 8}
    for seed in range(3):
        store.write(of_unit(seed, preregistration=section_hash(PLAN)))
        store.write(of_unit(seed, preregistration=section_hash(PLAN), settings=other))
    assert planned(store).study("cpu") == "confirmatory"
    assert planned(store).study("smoke") == "exploratory"
    words = "records with settings or seeds that are not planned"
    assert planned(store, seeds=3).study("cpu") == f"exploratory, 1 of 3 {words}"
    assert planned(store, settings_hash=settings_hash(other)).study("cpu") == f"exploratory, 2 of 2 {words}"
    store.write(of_unit(0, preregistration="0"))
    assert planned(store).study("cpu") == "exploratory, 1 of 2 records made under another plan than today's"


def test_a_verdict_waits_for_all_seeds_that_are_planned(store: Store) -> None:
    store.write(of_unit(0))
    assert planned(store, seeds=1).state("cpu", "u") == ("ok", "")
    assert not planned(store, seeds=1).complete("cpu", ["u"])
    store.write(of_unit(1))
    assert planned(store).complete("cpu", ["u"])
    assert not planned(store).complete("cpu", ["u", "v"])
    assert not planned(store, numerics=2).complete("cpu", ["u"])


def test_what_is_planned_is_shown_beside_what_is_recorded(store: Store) -> None:
    nothing = collect("table9", [wanted(0)], store)
    assert (nothing.judged_scales("gpu"), planned(store).judged_scales("gpu")) == (("gpu",), ("cpu",))
    store.write(of_unit(0, scale="smoke"))
    found = collect("table9", [wanted(0), wanted(0, scale="smoke")], store, PLAN)
    assert found.judged_scales("gpu") == ("smoke", "cpu")


def test_the_cost_of_a_seed_is_that_of_all_units(store: Store) -> None:
    for seed, seconds in enumerate((10.0, 20.0)):
        store.write(of_unit(seed, wall_seconds=seconds))
    store.write(of_unit(0, unit="v", wall_seconds=1.0))
    found = collect("table9", [wanted(0), wanted(1), wanted(0, unit="v")], store)
    assert found.core_seconds("cpu", ["u", "v", "missing"]) == 16.0


def test_two_stores_stay_apart(tmp_path: Path) -> None:
    committed, local = Store(tmp_path / "committed"), Store(tmp_path / "local")
    committed.write(of_unit(0, values={"8": 1.0}))
    local.write(of_unit(0, values={"8": 2.0}))
    found = [collect("table9", [wanted(0)], store).values("cpu", "u", "8") for store in (committed, local)]
    assert found == [{0: 1.0}, {0: 2.0}]
