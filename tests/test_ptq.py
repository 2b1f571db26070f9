"""The target `ptq`: its units, what it claims with and without records, its files; and one unit really run."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from repro import ptq
from repro.cli import main
from repro.errors import UsageError
from repro.evidence.collection import Evidence
from repro.evidence.records import Record, pack
from repro.evidence.render import read_fingerprint
from repro.ptq import TARGET, Cell, float_unit
from repro.published import read
from repro.targets import Context, Unit, planned
from tests import made_up
from tests.made_up import record_of

pytestmark = pytest.mark.usefixtures("coarse")

LAYERS = ("conv_stem", "blocks.0.0.conv_dw", "blocks.1.0.conv_pw", "conv_head")


def record(unit: Unit) -> Record:
    """A record as a unit would leave it, with made-up values: more bits less noise, `max` the noisiest."""
    values = {"knn": 50.0 + unit.seed, "top1": 90.0}
    curve = []
    if unit.name == float_unit(ptq.DRAWN[0]):
        counts = 1e6 * np.exp(-np.arange(120) / 12)
        curve = [{"upper": 0.25 * (j + 1), "count": int(count) + 1} for j, count in enumerate(counts)]
    elif not unit.name.endswith("_float"):
        bits, place = int(unit.name.split("bit")[0][-1]), 1 + ptq.CALIBRATORS.index(unit.name.split("_")[-1])
        values |= {"snr": 3.0 * bits + place - 8 * ("tensor" in unit.name), "agreement": 10.0 * bits + place}
        values |= {f"snr.{layer}": values["snr"] + 9 - i for i, layer in enumerate(LAYERS)}
        upper = 30.0 / place
        values |= {"drawn.upper": upper, "drawn.step": upper / (2 ** (bits - 1) - 1)}
        values |= {"drawn.clipped": 0.4 * (place - 1), "drawn.snr": 10.0 + place}
    return record_of(unit, values, correct={"knn": pack(np.array([True, False]))}, curve=curve)


@cache
def evidence(scale: str | None = None) -> Evidence:
    """Every unit of a scale recorded; of none, nothing."""
    return made_up.evidence(TARGET, map(record, planned(TARGET, scale) if scale else ()))


class TestUnits:
    def test_every_combination_once_after_its_float_network(self) -> None:
        units = planned(TARGET, "cpu", seeds=1)
        assert len(units) == 2 + 2 * 3 * 2 * 4
        assert [unit.name for unit in units[:2]] == ["efficientnet_lite0_float", "mobilenetv2_float"]
        assert all(unit.requires == (float_unit(unit.name.split("_")[0].replace("efficientnet", "efficientnet_lite0")),)
                   for unit in units[2:])  # fmt: skip
        assert Cell("mobilenetv2", 4, "channel", "entropy").unit in {unit.name for unit in units}

    def test_widths_choose_units_and_change_none(self) -> None:
        all_widths, one = planned(TARGET, "cpu", 1), planned(TARGET, "cpu", 1, {"widths": "3"})
        assert len(one) == 2 + 2 * 2 * 4
        assert one[0] == all_widths[0]
        assert "widths" not in one[-1].settings

    def test_settings_of_the_comparison_do_not_touch_the_float_networks(self) -> None:
        one, other = planned(TARGET, "cpu", 1), planned(TARGET, "cpu", 1, {"percent": "99", "weights": "max"})
        assert one[:2] == other[:2]
        assert one[2] != other[2]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"widths": "8,9"}, "widths=8,9: give different bit-widths from 2 to 8"),
            ({"widths": "8,8"}, "widths=8,8"),
            ({"widths": ""}, "widths="),
            ({"every": "0"}, "every=0: give a value from 1 to 2048"),
            ({"calibration_images": "0"}, "calibration_images=0: give a value from 1 to 16666"),
            ({"percent": "101"}, "percent=101"),
            ({"weights": "msee"}, "weights=msee: give same, or one of max"),
        ],
    )
    def test_impossible_settings(self, change: dict[str, str], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            planned(TARGET, "cpu", 1, change)


class TestClaims:
    def test_the_published_numbers_are_read_from_their_file(self) -> None:
        rows = {(row.scale, row.column): row for row in TARGET.rows(evidence()) if row.claim == "top1"}
        for line in read("ptq"):
            row = rows["paper", str(line["bits"])]
            assert row.published == str(line["top1"])
            assert (row.state, row.verdict) == ("missing", "")
            assert row.reason.startswith("data: ")

    def test_the_print_holds_by_itself(self) -> None:
        (row,) = [row for row in TARGET.rows(evidence()) if row.scale == "print"]
        assert (row.claim, row.verdict) == ("int8_costs_little", "holds")
        assert row.ours == pytest.approx(float(read("ptq")[0]["top1"]) - float(read("ptq")[1]["top1"]))  # type: ignore[arg-type]

    def test_twenty_images_give_no_verdict_on_the_printed_accuracy(self) -> None:
        rows = [row for row in TARGET.rows(evidence("cpu")) if row.claim == "top1" and row.scale == "cpu"]
        assert [(row.ours, row.verdict, row.state) for row in rows] == [(90.0, "", "ok")] * 2
        assert all("twenty" in row.reason for row in rows)

    def test_patterns_are_judged_on_three_seeds(self) -> None:
        rows = {row.claim: row for row in TARGET.rows(evidence("cpu")) if row.scale == "cpu" and row.kind == "pattern"}
        assert rows["clipping_helps_at_4_bits"].verdict == "holds"
        assert rows["channels_beat_tensors_at_8_bits"].verdict == "fails"
        assert {row.n for row in rows.values()} == {3}


class TestFiles:
    def test_the_same_bytes_from_a_process_without_torch_and_pictures_with_a_fingerprint(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from tests.test_ptq import TARGET, evidence;"
            "from repro.evidence import render; render.STYLE['savefig.dpi'] = 40;"
            "TARGET.render(evidence('smoke'), Path(sys.argv[1]));"
            "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code, tmp_path / "b"], check=True, cwd=Path(__file__).parents[1])
        first = TARGET.render(evidence("smoke"), tmp_path / "a")
        names = ["ptq.csv", "ptq_layers.csv", "ptq.md", "ptq.png", "ptq.svg", "ptq_layers.png", "ptq_layers.svg"]
        assert [path.name for path in first] == names
        for one in first:
            assert one.read_bytes() == (tmp_path / "b" / one.name).read_bytes(), one.name
        assert read_fingerprint(first[3]) == read_fingerprint(first[4]) is not None
        with first[1].open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(LAYERS) * 2 * 2 * 2 * 4  # every layer of every network in order
        assert tuple(row["layer"] for row in rows[: len(LAYERS)]) == LAYERS

    def test_without_records_there_is_nothing_to_draw(self, tmp_path: Path) -> None:
        assert [path.name for path in TARGET.render(evidence(), tmp_path)] == ["ptq.csv", "ptq_layers.csv", "ptq.md"]
        assert "Nothing is recorded yet" in (tmp_path / "ptq.md").read_text()

    def test_the_page_shows_print_claims_and_each_network(self) -> None:
        text = TARGET.summary(evidence("cpu"), evidence())
        for words in ("75.40 % in float", "74.22 % in INT8", "Results: committed cpu", "MobileNetV2", "per channel"):
            assert words in text
        assert text.count("| entropy") == 2 * 3 * 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    out = tmp_path_factory.mktemp("ptq")
    small = {"calibration_images": "2", "evaluation_images": "3", "noise_images": "1", "batch": "3"}
    units = {unit.name: unit for unit in planned(TARGET, "smoke", 1, small)}

    def run(name: str) -> dict:
        unit = units[name]
        (out / name).mkdir()
        outcome = TARGET.run(unit, Context(out / name, inputs={need: out / need for need in unit.requires}))
        return {"values": outcome.values, "correct": outcome.correct, "curve": outcome.curve}

    return run


class TestRuns:
    """The smallest runs there are, on real images and weights."""

    def test_a_float_network_and_what_is_made_of_it(self, run: Callable[[str], dict]) -> None:
        exact = run("efficientnet_lite0_float")
        assert exact["values"]["top1"] == 90
        assert sum(point["count"] for point in exact["curve"]) > 0
        found = run("efficientnet_lite0_8bit_channel_mse")
        assert found["values"]["snr"] > 5
        assert found["values"]["top1"] >= 80
        assert len(found["correct"]["agreement"]) == 3
        layers = sorted((name for name in found["values"] if name.startswith("snr.")), key=ptq.layer_key)
        assert len(layers) == 50
        assert (layers[0], layers[-1]) == ("snr.conv_stem", "snr.classifier")
        assert found["values"]["snr.conv_stem"] > 30
        assert 0 < found["values"]["drawn.step"] < found["values"]["drawn.upper"]


def test_the_command_prints_ranges_and_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("calibrate", "--network", "mobilenetv2", "--method", "max", "--bits", "6", "--images", "2", "--json")
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["network"], found["bits"], found["calibrator"], found["imagenet_samples"]) == (
        "mobilenetv2", 6, "max", None,
    )  # fmt: skip
    assert len(found["ranges"]) == 51
    assert found["ranges"]["conv_head"]["upper"] == found["ranges"]["conv_head"]["largest"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--network", "mobilenet"), "did you mean mobilenetv2"),
        (("--method", "entrop"), "did you mean entropy"),
        (("--bits", "9"), "2<=x<=8"),
    ],
)
def test_bad_requests_are_usage_errors(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *arguments]) == 2
    assert words in capsys.readouterr().err
