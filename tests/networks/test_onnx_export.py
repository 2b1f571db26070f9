"""ONNX: the exported network computes the same, the quantized one nearly, and really in integers."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from repro.errors import ReproError
from repro.networks import onnx_export
from repro.networks.onnx_export import export, int8_convolutions, interleaved, operators, quantize_int8, session
from repro.training.streams import torch_seeded

needs_onnx = pytest.mark.skipif(
    any(onnx_export.find_spec(name) is None for name in onnx_export.PACKAGES), reason="the extra onnx is not installed"
)
IMAGES = np.random.default_rng(0).standard_normal((6, 3, 8, 8), dtype=np.float32)


class Files:
    """A small network of two convolutions, one of them with 128 x 128 x 3 x 3 weights, and its files."""

    def __init__(self, folder: Path) -> None:
        with torch_seeded(0, "initialisation"):
            self.network = nn.Sequential(
                nn.Conv2d(3, 128, 3, 2, 1), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1),
                nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
            )  # fmt: skip
        self.network(torch.from_numpy(IMAGES))  # batch norm has something to fold
        self.fp32 = export(self.network, torch.from_numpy(IMAGES[:2]), folder / "fp32.onnx")
        self.int8 = quantize_int8(self.fp32, folder / "int8.onnx", [image[None] for image in IMAGES])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("onnx"))


def outputs(path: Path, images: np.ndarray) -> np.ndarray:
    return session(path).run(None, {"images": images})[0]


@needs_onnx
class TestFiles:
    @pytest.mark.parametrize("n", [1, 2, 6])
    def test_export_computes_what_torch_does_at_any_batch_size(self, files: Files, n: int) -> None:
        assert not files.network.training
        with torch.inference_mode():
            expected = files.network(torch.from_numpy(IMAGES[:n])).numpy()
        np.testing.assert_allclose(outputs(files.fp32, IMAGES[:n]), expected, rtol=1e-4, atol=1e-5)

    def test_batch_norm_is_folded(self, files: Files) -> None:
        assert operators(files.fp32)["Conv"] == 2
        assert operators(files.fp32)["BatchNormalization"] == 0

    def test_int8_is_near_to_float(self, files: Files) -> None:
        exact, quantized = outputs(files.fp32, IMAGES), outputs(files.int8, IMAGES)
        noise = quantized - exact
        assert 20 < 10 * np.log10((exact**2).sum() / (noise**2).sum()) < 60

    def test_int8_takes_about_a_quarter(self, files: Files) -> None:
        assert 0.25 < files.int8.stat().st_size / files.fp32.stat().st_size < 0.3

    def test_weights_have_a_step_per_output_channel(self, files: Files) -> None:
        import onnx
        from onnx import numpy_helper

        kept = {t.name: numpy_helper.to_array(t) for t in onnx.load(files.int8).graph.initializer}
        weights = [array for array in kept.values() if array.dtype == np.int8 and array.ndim == 4]
        assert sorted(array.shape for array in weights) == [(128, 3, 3, 3), (128, 128, 3, 3)]
        assert sum(array.shape == (128,) and array.dtype == np.float32 for array in kept.values()) >= 2

    def test_convolutions_really_run_in_integers(self, files: Files) -> None:
        assert (int8_convolutions(files.fp32), int8_convolutions(files.int8)) == (0, 1)

    def test_no_calibration_images(self, files: Files, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no calibration images"):
            quantize_int8(files.fp32, tmp_path / "none.onnx", [])

    def test_nothing_is_said_and_the_logger_is_left_as_it_was(
        self, files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        level = logging.getLogger().level
        quantize_int8(files.fp32, tmp_path / "again.onnx", [IMAGES])
        assert logging.getLogger().level == level
        assert capfd.readouterr() == ("", "")


class Session:
    """Stands for a runtime session; notes when it is run."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> None:
        assert inputs["images"] is IMAGES
        self.log.append(self.name)


def test_sessions_take_turns_and_warm_up_is_not_counted() -> None:
    log: list[str] = []
    times = interleaved([Session("a", log), Session("b", log)], IMAGES, rounds=3, warmup=1)  # type: ignore[list-item]
    assert "".join(log) == "abbaabba"
    assert times.shape == (3, 2)
    assert (times > 0).all()


@pytest.mark.parametrize("missing", onnx_export.PACKAGES)
def test_a_missing_package_is_one_line_that_says_what_to_do(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(ReproError) as error:
        session(Path("a.onnx"))
    assert str(error.value) == f"{missing} not installed; run: pip install -e '.[onnx]'"
    assert error.value.exit_code == 3
