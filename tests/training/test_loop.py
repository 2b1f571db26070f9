"""The loop: a training that is stopped anywhere and resumed ends with the very same numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from repro.errors import UsageError
from repro.training import loop
from repro.training.batches import Batches
from repro.training.distillation import training_step
from repro.training.evaluate import calibrate_batch_norm, correct
from repro.training.loop import History, Training
from repro.training.streams import torch_seeded


class KilledError(Exception):
    """Stands for a kill."""


def data() -> Batches:
    rng = np.random.default_rng(0)
    return Batches(rng.integers(0, 256, (40, 3, 8, 8), np.uint8), rng.integers(0, 10, 40), 8)


def train(checkpoint: Path, stop_at: int | None = None) -> tuple[History, dict]:
    with torch_seeded(0, "initialisation"):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def progress(done: int, total: int, note: str) -> None:
        if done == stop_at:
            raise KilledError

    training = Training(network, optimizer, data(), seed=5, epochs=3, checkpoint=checkpoint)
    history = training.run(training_step(network), lambda: {"32": correct(network, data())}, progress)
    return history, network.state_dict()


@pytest.mark.parametrize("every", [0.0, 1e9])
@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 13, 15])
def test_stopped_and_resumed_equals_unbroken(
    stop_at: int, every: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", every)
    history, state = train(tmp_path / "unbroken.pt")
    with pytest.raises(KilledError):
        train(tmp_path / "broken.pt", stop_at)
    again, restored = train(tmp_path / "broken.pt")
    assert again.curve == history.curve
    assert again.best == history.best
    np.testing.assert_array_equal(again.last["32"], history.last["32"])
    assert all(torch.equal(state[key], restored[key]) for key in state)


def test_a_checkpoint_in_mid_epoch_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KilledError):
        train(tmp_path / "c.pt", stop_at=8)
    assert loop.load(tmp_path / "c.pt")["step"] == 8


def test_a_batch_of_more_images_than_there_are_is_refused(tmp_path: Path) -> None:
    """An epoch would have no step, and a training none to learn by."""
    network, few = nn.Linear(1, 10), replace(data(), batch=41)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(UsageError, match=r"^batch=41: give at most the 40 training images that there are$") as error:
        Training(network, optimizer, few, seed=0, epochs=1, checkpoint=tmp_path / "c.pt")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("schedule", "tenths"),
    [
        ("cosine", [10, 9.7553, 9.0451, 7.9389, 6.5451, 5, 3.4549, 2.0611, 0.9549, 0.2447]),
        ("linear", [*range(10, 0, -1)]),
    ],
)
def test_learning_rate_follows_its_schedule_to_zero(schedule: str, tenths: list[float], tmp_path: Path) -> None:
    network = nn.Linear(1, 10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.4)
    rates = []
    training = Training(network, optimizer, data(), seed=0, epochs=2, checkpoint=tmp_path / "c.pt", schedule=schedule)

    def step(x: torch.Tensor, y: torch.Tensor, number: int) -> float:
        rates.append(optimizer.param_groups[0]["lr"])
        return 0.0

    training.run(step, lambda: {"32": np.zeros(1, bool)}, lambda *_: None)
    assert rates == pytest.approx([0.04 * tenth for tenth in tenths], abs=1e-5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_best_is_the_first_epoch_with_the_largest_sum() -> None:
    history = History()
    for a, b in [(1, 2), (2, 2), (3, 1), (0, 0)]:
        history.add(0.0, {"8": np.arange(4) < a, "2": np.arange(4) < b})
    assert history.best == {"8": 50.0, "2": 50.0}
    assert [point["8"] for point in history.curve] == [25.0, 50.0, 75.0, 0.0]
    assert history.last["8"].sum() == 0


@pytest.mark.parametrize("stop_at", [None, 9, 13])
def test_the_network_of_the_best_epoch_is_kept_where_asked(stop_at: int | None, tmp_path: Path) -> None:
    """Three epochs of five steps, the second the best; killed in the second or the third, or not at all."""
    after: dict[int, dict] = {}

    def trained(stop_at: int | None) -> tuple[History, nn.Module]:
        with torch_seeded(0, "initialisation"):
            network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        training = Training(network, optimizer, data(), seed=5, epochs=3, checkpoint=tmp_path / "c.pt", keep_best=True)

        def evaluate() -> dict[str, np.ndarray]:
            epoch = training.step // 5
            after[epoch] = {key: tensor.clone() for key, tensor in network.state_dict().items()}
            return {"8": np.arange(4) < (1, 3, 2)[epoch - 1]}

        def progress(done: int, total: int, note: str) -> None:
            if done == stop_at:
                raise KilledError

        return training.run(training_step(network), evaluate, progress), network

    if stop_at:
        with pytest.raises(KilledError):
            trained(stop_at)
    history, network = trained(None)
    assert history.best == {"8": 75.0}
    assert history.best_hits["8"].tolist() == [True, True, True, False]
    assert history.last["8"].tolist() == [True, True, False, False]
    assert all(torch.equal(tensor, after[2][key]) for key, tensor in network.state_dict().items())
    assert not torch.equal(network.state_dict()["1.weight"], after[3]["1.weight"])


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    loop.save({"step": 1}, path)

    def broken(state: object, file: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="No space left"):
        loop.save({"step": 2}, path)
    assert loop.load(path) == {"step": 1}


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"network": print}, tmp_path / "c.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only|Unsupported"):
        loop.load(tmp_path / "c.pt")


def test_batch_norm_statistics_after_calibration_are_those_of_the_data() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3))
    network[0].running_mean.fill_(7.0)
    calibrate_batch_norm(network, data().plain())
    parts = [x for x, _ in data().plain()]
    mean = torch.stack([x.mean((0, 2, 3)) for x in parts]).mean(0)
    variance = torch.stack([x.var((0, 2, 3)) for x in parts]).mean(0)
    torch.testing.assert_close(network[0].running_mean, mean)
    torch.testing.assert_close(network[0].running_var, variance)
    assert network[0].momentum == 0.1
    assert not network.training
    calibrate_batch_norm(network, iter([(parts[0], None)]))
    torch.testing.assert_close(network[0].running_mean, parts[0].mean((0, 2, 3)))
    torch.testing.assert_close(network[0].running_var, parts[0].var((0, 2, 3)))
