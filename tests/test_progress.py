"""What is said on stderr while units run."""

import pytest

from repro.progress import Bars, Lines, Reporter
from repro.targets import Unit

UNIT = Unit("table1", "cpu", "dq8", 2, {}, 1)


def drive(reporter: Reporter) -> None:
    reporter.begin(3)
    reporter.started(UNIT)
    for done in range(5):
        reporter.advanced(UNIT, done, 8, "epoch 1")
    reporter.ended(UNIT, "done in 2.0 s")
    reporter.close()


def test_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    drive(Lines())
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "[0/3] table1 cpu dq8, seed 2: started\n[1/3] table1 cpu dq8, seed 2: done in 2.0 s\n"


def test_lines_say_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    drive(Lines(seconds_between=0))
    said = capsys.readouterr().err.splitlines()[1:-1]
    assert [line.split(":")[1].split(",")[0] for line in said] == [" 1/8", " 2/8", " 3/8", " 4/8"]
    assert all("/s, " in line and line.endswith(" left  epoch 1") for line in said)


def test_bars_keep_a_line_of_each_unit_that_ended(capsys: pytest.CaptureFixture[str]) -> None:
    drive(Bars())
    out, err = capsys.readouterr()
    assert out == ""
    assert "table1 cpu dq8, seed 2: done in 2.0 s" in err
    assert "1/3" in err
