"""Units of Figure 4 really run, as small as they can be, on real images: the same numbers twice, and after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from backends import Scaler
from repro.figure4 import NETWORKS, TARGET, experiment
from repro.figure4.experiment import Noise
from repro.targets import Context, Outcome, Unit, planned

TINY = {
    "small_fp32_images": "64", "small_train_images": "48", "small_batch": "16", "small_test_images": "40",
    "small_bn_images": "32", "small_epochs": "2", "lite0_fp32_images": "8", "lite0_train_images": "8",
    "lite0_batch": "4", "lite0_test_images": "8", "lite0_bn_images": "8", "deltas": "5e-2",
}  # fmt: skip


def units(seed: int = 0, **changes: str) -> dict[str, Unit]:
    return {u.name: u for u in planned(TARGET, "smoke", seed + 1, TINY | changes) if u.seed == seed}


Run = Callable[..., Outcome]


@pytest.fixture(scope="module", autouse=True)
def _as_a_worker_runs_them() -> Iterator[None]:
    """On one thread; CIFAR-10, which every unit verifies anew, is read once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment.cifar10, "load", cache(experiment.cifar10.load))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a unit of these settings; its start is run once."""
    root = tmp_path_factory.mktemp("figure4")
    calls = iter(range(1000))

    def run(name: str, seed: int = 0, folder: Path | None = None, progress: object = None, **changes: str) -> Outcome:
        unit = units(seed, **changes)[name]
        inputs = {}
        for need in unit.requires:
            inputs[need] = root / f"{need}.{seed}"
            if not inputs[need].exists():
                inputs[need].mkdir()
                TARGET.run(units(seed)[need], Context(inputs[need]))
        if folder is None:
            folder = root / str(next(calls))
            folder.mkdir()
        extra = {} if progress is None else {"progress": progress}
        return TARGET.run(unit, Context(folder, inputs=inputs, **extra))  # type: ignore[arg-type]

    return run


@pytest.fixture(scope="module")
def once(run: Run) -> Callable[[str], Outcome]:
    """What a unit gave when it was first run."""
    return cache(lambda name: run(name))


def numbers(outcome: Outcome) -> tuple[object, ...]:
    correct = {column: hits.tolist() for column, hits in outcome.correct.items()}
    return dict(outcome.values), dict(outcome.best), correct, list(outcome.curve)


@pytest.mark.parametrize(
    "name",
    [
        "small_fp32", "small_3bit_ewgs_invtanh", "small_3bit_gaussian_noise_gaussian_noise",
        "lite0_3bit_ewgs_invtanh",
    ],
)  # fmt: skip
def test_the_same_seed_gives_the_same_numbers_twice(run: Run, once: Callable[[str], Outcome], name: str) -> None:
    assert numbers(run(name)) == numbers(once(name))


def test_a_killed_run_ends_with_the_same_numbers(run: Run, tmp_path: Path) -> None:
    name = "small_3bit_uniform_noise_uniform_noise"

    def kill(done: int, total: int, note: str) -> None:
        if done == total // 2 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(name, folder=tmp_path, progress=kill)
    assert (tmp_path / "checkpoint.pt").exists()
    assert numbers(run(name, folder=tmp_path)) == numbers(run(name))


def test_outcomes_of_a_run(once: Callable[[str], Outcome]) -> None:
    found = once("small_3bit_ewgs_ste")
    assert set(found.values) == {"top1", "top1_bn", "weight_error", "oscillation"}
    assert 0 < found.values["weight_error"] < 0.5
    assert 0 <= found.values["oscillation"] <= 100
    assert found.values["top1"] == pytest.approx(100 * np.mean(found.correct["top1"]))
    assert ["top1" in point for point in found.curve] == [False, True]  # the test set is read once
    assert len(found.correct["top1"]) == 40


def test_every_epoch_is_evaluated_where_asked(run: Run) -> None:
    found = run("small_3bit_ewgs_ste", evaluate="every")
    assert ["top1" in point for point in found.curve] == [True, True]
    assert found.best["top1"] == max(point["top1"] for point in found.curve)


def test_a_large_delta_moves_the_weights_from_the_thresholds(run: Run) -> None:
    """EWGS pulls weights to the grid: the manipulation that the study relies on."""
    few = {"small_epochs": "8", "small_lr": "0.1"}
    errors = [run("small_3bit_ewgs_ste", delta=delta, **few).values["weight_error"] for delta in ("0", "0.9")]
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "changes",
    [{"delta": "0.5"}, {"alpha": "1.0"}, {"form": "printed", "delta": "0.5"}, {"operands": "unquantized"}],
    ids=str,
)
def test_each_named_setting_trains_another_network(
    run: Run, once: Callable[[str], Outcome], changes: dict[str, str]
) -> None:
    name = "small_3bit_invtanh_invtanh"
    assert numbers(run(name, **changes))[3] != numbers(once(name))[3]


def test_a_unit_of_the_sweep_is_the_pair_at_that_delta(run: Run) -> None:
    swept, pair = run("small_3bit_ewgs_ewgs_delta5e-02"), run("small_3bit_ewgs_ewgs", delta="0.05")
    assert numbers(swept) == numbers(pair)


@pytest.mark.parametrize("bits", [2, 4])
def test_other_widths(run: Run, bits: int) -> None:
    assert np.isfinite(run(f"small_{bits}bit_ewgs_invtanh").curve[-1]["loss"])


def test_lite0_from_imagenet_weights(once: Callable[[str], Outcome]) -> None:
    found = once("lite0_3bit_ewgs_invtanh")
    assert 0.2 < found.values["weight_error"] < 0.3
    assert found.images == 8


def test_seeds_have_starts_of_their_own(run: Run) -> None:
    one, other = (run(NETWORKS["small"].start, seed) for seed in (0, 1))
    assert one.curve != other.curve


class TestNoise:
    x = torch.empty(40, 3, 8, 8).to(memory_format=torch.channels_last)

    def test_it_is_that_of_seed_tensor_and_step(self) -> None:
        scaler = Scaler("gaussian_noise")
        one = Noise(1, step=2)("a.input", scaler, self.x)
        assert torch.equal(one, Noise(1, step=2)("a.input", scaler, self.x))
        others = (Noise(2, step=2)("a.input", scaler, self.x), Noise(1, step=3)("a.input", scaler, self.x),
                  Noise(1, step=2)("a.weight", scaler, self.x))  # fmt: skip
        assert not any(torch.equal(one, other) for other in others)
        assert one.stride() == self.x.stride()

    @pytest.mark.parametrize(
        ("name", "sd", "largest"), [("uniform_noise", 12**-0.5, 0.5), ("gaussian_noise", 1.0, 4.4)]
    )
    def test_its_distribution(self, name: str, sd: float, largest: float) -> None:
        drawn = Noise(0)("a", Scaler(name), torch.empty(200_000))
        assert drawn.mean().item() == pytest.approx(0, abs=0.01)
        assert drawn.std().item() == pytest.approx(sd, rel=0.01)
        assert drawn.abs().max().item() < largest
