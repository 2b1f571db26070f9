"""The target `size_latency`: what a unit measures, what is claimed of it, and how it is shown. No time is judged."""

from __future__ import annotations

import csv
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from repro import size_latency
from repro.errors import ReproError, UsageError
from repro.evidence import render
from repro.evidence.collection import Evidence
from repro.networks import onnx_export
from repro.size_latency import BATCHES, FORMATS, NETWORKS, QUANTILES, TARGET, Measured
from repro.targets import Context, planned
from tests.made_up import evidence, record_of

pytestmark = pytest.mark.usefixtures("coarse")

needs_onnx = pytest.mark.skipif(
    any(onnx_export.find_spec(name) is None for name in onnx_export.PACKAGES), reason="the extra onnx is not installed"
)


def unit(network: str, **changes: str):
    (found,) = [u for u in planned(TARGET, "smoke", 1, changes) if u.name == network]
    return found


class TestUnits:
    def test_every_network_is_measured_in_each_repeat(self) -> None:
        names = [(u.seed, u.name, u.requires) for u in planned(TARGET, "cpu")]
        assert names == [(seed, name, ()) for seed in range(3) for name in NETWORKS]

    @pytest.mark.parametrize("change", ["rounds=0", "warmup=-1", "calibration_images=1"])
    def test_settings_that_cannot_be(self, change: str) -> None:
        key, _, value = change.partition("=")
        with pytest.raises(UsageError, match=f"{key}={value}: give a whole number from"):
            planned(TARGET, "smoke", 1, {key: value})

    def test_without_the_extra_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
        with pytest.raises(ReproError, match=r"run: pip install -e '\.\[onnx\]'$") as error:
            TARGET.ready("cpu")
        assert error.value.exit_code == 3

    def test_another_device_is_refused(self) -> None:
        with pytest.raises(ReproError, match="leave out --device cuda"):
            TARGET.ready("cuda")

    def test_one_unit_is_measured_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def measured(*_: object) -> bool:
            with (tmp_path / "timing.lock").open() as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True

        monkeypatch.setattr(size_latency, "measure", measured)
        (tmp_path / "unit").mkdir()
        assert TARGET.run(unit("resnet18"), Context(tmp_path / "unit"))
        with (tmp_path / "timing.lock").open() as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@needs_onnx
def test_a_network_really_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet18 is nearly all weights: INT8 takes a quarter, and every convolution is an integer one."""
    monkeypatch.setattr(size_latency, "BATCHES", (1, 2))
    (tmp_path / "unit").mkdir()
    found = TARGET.run(unit("resnet18", rounds="1", warmup="0", calibration_images="2"), Context(tmp_path / "unit"))
    assert found.values["fp32_mb"] == pytest.approx(4 * 11.69, rel=0.01)  # millions of parameters
    assert 0.25 < found.values["int8_mb"] / found.values["fp32_mb"] < 0.26
    assert found.values["int8_convolutions"] == 100
    timed = {f"{name}_{batch}_{q}" for name in (*FORMATS, "speedup") for batch in (1, 2) for q in QUANTILES}
    assert found.values.keys() == timed | {"fp32_mb", "int8_mb", "int8_convolutions"}
    assert all(value > 0 for value in found.values.values())
    assert found.images == 2 * 3


def kept(speedup: float = 2.0, int8_mb: float = 11.0, networks: tuple[str, ...] = tuple(NETWORKS)) -> Evidence:
    """Made-up records: FP32 has 40 MB and takes 30 ms an image; the p20 and p80 lie a tenth beside the p50."""
    records = []
    for u in planned(TARGET, "cpu"):
        if u.name not in networks:
            continue
        gain = speedup + 0.01 * u.seed
        values = {"fp32_mb": 40.0, "int8_mb": int8_mb, "int8_convolutions": 100.0}
        for batch in BATCHES:
            middle = {"fp32": 30.0 * batch, "int8": 30.0 * batch / gain, "speedup": gain}
            for name, value in middle.items():
                values |= {f"{name}_{batch}_{q}": value * f for q, f in zip(QUANTILES, (0.9, 1, 1.1), strict=True)}
        records.append(record_of(u, values, cpu="A Processor"))
    return evidence(TARGET, records)


class TestClaims:
    def test_smaller_and_faster_hold(self) -> None:
        rows = TARGET.rows(kept())
        assert [row.claim for row in rows] == [
            "int8_is_about_a_quarter", *(f"int8_is_faster_{name}" for name in NETWORKS)
        ]  # fmt: skip
        assert {(row.verdict, row.state, row.n) for row in rows} == {("holds", "ok", 3)}
        assert rows[0].ours == pytest.approx(40 / 11)
        assert rows[1].ours == pytest.approx(2.01)

    def test_slower_fails_and_hardly_smaller_too(self) -> None:
        assert {row.verdict for row in TARGET.rows(kept(speedup=0.9, int8_mb=20.0))} == {"fails"}

    def test_a_network_without_records_is_missing(self) -> None:
        rows = TARGET.rows(kept(networks=("resnet18",)))
        states = {row.claim: row.state for row in rows}
        assert states["int8_is_faster_resnet18"] == "ok"
        assert states["int8_is_faster_mobilenetv2"] == states["int8_is_about_a_quarter"] == "missing"


class TestFiles:
    def names(self, paths: list[Path]) -> list[str]:
        return [path.name.removeprefix("size_latency") for path in paths]

    def test_without_records_there_is_no_picture(self, tmp_path: Path) -> None:
        assert self.names(TARGET.render(evidence(TARGET), tmp_path)) == [".csv", ".md"]

    def test_the_same_bytes_twice_and_a_fingerprint_of_the_records(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = (TARGET.render(kept(), tmp_path / name) for name in "ab")
        assert self.names(first) == [".csv", ".md", "_points.csv", ".png", ".svg"]
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
        *_, png, svg = first
        monkeypatch.setattr(size_latency, "picture", lambda measured: Figure())
        *_, other = TARGET.render(kept(speedup=2.5), tmp_path / "c")
        assert render.read_fingerprint(png) == render.read_fingerprint(svg) != render.read_fingerprint(other)

    def test_points_are_the_medians_over_repeats(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(size_latency, "picture", lambda measured: Figure())
        TARGET.render(kept(), tmp_path)
        with (tmp_path / "size_latency_points.csv").open() as file:
            rows = {(row["network"], row["format"], row["quantity"]): row for row in csv.DictReader(file)}
        assert len(rows) == len(NETWORKS) * 2 * 3
        assert float(rows["resnet18", "int8", "batch of 1"]["p50"]) == pytest.approx(30 / 2.01, rel=1e-5)
        assert float(rows["resnet18", "fp32", "batch of 32"]["p80"]) == pytest.approx(1056)

    def test_the_page_says_whose_numbers_these_are(self) -> None:
        text = TARGET.summary(kept(), kept())
        assert (
            "Ours, scale cpu, not comparable with print: A Processor, one thread, onnxruntime, random weights." in text
        )
        assert "3.64 ×" in text
        assert "2.01 × (1.81 to 2.21)" in text


class TestPicture:
    def test_a_bar_for_each_network_and_format_in_each_panel(self) -> None:
        figure = size_latency.picture(Measured(kept(), "cpu"))
        size, one, many = figure.axes
        assert [len(axes.patches) for axes in figure.axes] == [2 * len(NETWORKS)] * 3
        assert [bar.get_width() for bar in size.patches] == [40.0] * 4 + [11.0] * 4
        assert [bar.get_width() for bar in one.patches[4:]] == pytest.approx([30 / 2.01] * 4)
        assert [bar.get_width() for bar in many.patches[:4]] == pytest.approx([30.0] * 4)  # per image
        assert [label.get_text() for label in size.get_yticklabels()] == [n.label for n in NETWORKS.values()]

    def test_only_networks_with_records_are_drawn(self) -> None:
        figure = size_latency.picture(Measured(kept(networks=("mobilenetv2",)), "cpu"))
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["MobileNetV2"]

    def test_slower_is_another_colour(self) -> None:
        figure = size_latency.picture(Measured(kept(speedup=0.8), "cpu"))
        gains = [text for text in figure.axes[1].texts if text.get_text().endswith("×")]
        assert {(text.get_text(), text.get_color()) for text in gains} == {("0.81 ×", size_latency.SLOWER)}


def test_importing_the_target_imports_neither_torch_nor_onnxruntime() -> None:
    code = (
        "import sys, repro.size_latency;"
        "assert not {'torch', 'onnx', 'onnxruntime', 'timm', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
