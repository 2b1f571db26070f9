"""Records: what they hold, how they survive killed writers, and how damaged ones are found."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.evidence import files
from repro.evidence.canonical import digest
from repro.evidence.records import (
    FORMAT,
    PARTIAL,
    Record,
    RecordError,
    Store,
    StoreError,
    load,
    pack,
    settings_hash,
    unpack,
)
from tests.made_up import SETTINGS, record, spoil

# What a record holds


def test_a_record_has_all_that_the_evidence_asks_for() -> None:
    asked = (
        "target unit seed scale settings values unit_of_values best correct curve backend device wall_seconds "
        "images_per_second versions cpu gpu commit dirty numerics started command threads workers preregistration"
    )
    assert {field.name for field in fields(Record)} == set(asked.split())


def test_the_key_is_target_scale_unit_seed_and_settings_hash() -> None:
    assert record().key == f"table9/cpu/joint_w16+bn.3.{settings_hash(SETTINGS)}"


@pytest.mark.parametrize("name", ["backend", "device", "threads", "workers"])
def test_how_it_was_run_is_recorded_but_not_part_of_the_key(name: str) -> None:
    other = record(**{name: 2 if name in ("threads", "workers") else "other"})
    assert other.key == record().key
    assert getattr(other, name) != getattr(record(), name)


def test_every_setting_is_part_of_the_hash_but_not_their_order() -> None:
    assert settings_hash(dict(reversed(SETTINGS.items()))) == settings_hash(SETTINGS)
    for name in SETTINGS:
        assert settings_hash(SETTINGS | {name: "other"}) != settings_hash(SETTINGS)
        assert settings_hash({k: v for k, v in SETTINGS.items() if k != name}) != settings_hash(SETTINGS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "../up"}, "target: '../up' has characters other than"),
        ({"unit": "a.b"}, "unit: 'a.b' has characters other than"),
        ({"unit": ""}, "unit: '' has characters other than"),
        ({"scale": "print"}, "scale: 'print' is none of smoke, cpu, gpu, paper"),
        ({"seed": -1}, "seed: -1 is negative"),
        ({"seed": 1.0}, "seed: expected int, got 1.0"),
        ({"seed": True}, "seed: expected int, got True"),
        ({"numerics": "1"}, "numerics: expected int, got '1'"),
        ({"values": {}}, "values: empty"),
        ({"values": {"8": float("nan")}}, "values['8']: expected a finite number, got nan"),
        ({"values": {"8": "90"}}, "values['8']: expected a finite number, got '90'"),
        ({"values": {8: 90.0}}, "values: a key is not text"),
        ({"best": {"8": float("inf")}}, "best['8']: expected a finite number, got inf"),
        ({"settings": {"lr": float("nan")}}, "settings['lr']: expected a finite number, got nan"),
        ({"settings": {"lr": [1]}}, "settings['lr']: expected a finite number, got [1]"),
        ({"settings": 3}, "settings: expected Mapping, got 3"),
        ({"correct": {"8": "9:AA=="}}, "correct: 1 bytes do not hold '9' items"),
        ({"versions": {"torch": 2}}, "versions['torch']: expected text, got 2"),
        ({"curve": [3]}, "curve: expected numbers by name, got 3"),
        ({"curve": [{"loss": "low"}]}, "curve: expected numbers by name"),
        ({"dirty": 0}, "dirty: expected bool, got 0"),
        ({"gpu": 1}, "gpu: expected str, got 1"),
        ({"wall_seconds": "1"}, "wall_seconds: expected a finite number, got '1'"),
    ],
)
def test_a_record_that_cannot_be_right_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecordError) as error:
        record(**changes)
    assert reason in str(error.value)


def test_a_loss_that_diverged_is_kept_as_none(store: Store) -> None:
    store.write(record(curve=[{"loss": float("nan")}, {"loss": float("inf"), "epoch": 2}]))
    (found,), _ = store.read()
    assert found.curve == [{"loss": None}, {"loss": None, "epoch": 2}]


def test_the_outcome_leaves_out_time_and_place() -> None:
    """What a killed and resumed run must share with an unbroken one."""
    other = record(
        wall_seconds=5.0, started="2024-01-01T00:00:00Z", command="other", commit="abc", device="cuda",
        curve=[{"epoch": 1, "loss": 2.25, "seconds": 77.0}],
    )  # fmt: skip
    assert other.outcome() == record().outcome()
    for changes in ({"values": {"8": 90.26}}, {"best": {}}, {"correct": {}}, {"curve": []}, {"settings": {}}):
        assert record(**changes).outcome() != record().outcome()


# Correctness bits


@given(st.lists(st.booleans(), max_size=40))
def test_correctness_of_each_item_survives_packing(correct: list[bool]) -> None:
    found = unpack(pack(np.array(correct, bool)))
    assert found.dtype == np.bool_
    assert found.tolist() == correct


def test_ten_thousand_items_take_less_than_two_kilobytes() -> None:
    assert len(pack(np.ones(10_000, bool))) < 1_700


@pytest.mark.parametrize("correct", [np.ones(3), np.ones((2, 2), bool), np.array(True)])
def test_only_a_flat_array_of_bool_is_packed(correct: np.ndarray) -> None:
    with pytest.raises(RecordError, match="expected a flat array of bool"):
        pack(correct)


@pytest.mark.parametrize(
    "text", ["", "5", "x:mA==", "-1:", "9:mA==", "5:mA", "5:m!A==", "5:mA==\n", "5:nA==", "²:mA=="]
)
def test_text_that_holds_no_bits_is_refused(text: str) -> None:
    """The last but one sets a bit after the fifth item."""
    with pytest.raises(RecordError, match=r"^correct: "):
        unpack(text)


# The store


def test_what_is_written_is_read(store: Store) -> None:
    path = store.write(record())
    assert path == store.folder / f"{record().key}.json"
    assert store.read() == ([record()], [])
    assert load(path) == record()


def test_equal_records_give_equal_bytes_that_diff_well(store: Store) -> None:
    text = store.write(record()).read_text()
    again = store.write(record(settings=dict(reversed(SETTINGS.items())))).read_text()
    assert text == again
    assert text.endswith("\n}\n")
    assert text.isascii()
    assert '\n  "lr": 0.1,\n' in text


@given(st.dictionaries(st.text("ab", min_size=1), st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_values_are_read_back_bit_for_bit(values: dict[str, float]) -> None:
    body = json.loads(json.dumps(asdict(record(values=values))))
    assert {k: v.hex() for k, v in Record(**body).values.items()} == {k: v.hex() for k, v in values.items()}


def test_writing_again_replaces(store: Store) -> None:
    store.write(record())
    store.write(record(values={"8": 1.0}))
    (found,), damaged = store.read()
    assert (found.values, damaged) == ({"8": 1.0}, [])


def test_a_store_reads_one_target_or_all(store: Store) -> None:
    records = [record(target=target, seed=seed) for target in ("a", "b") for seed in (0, 1)]
    for one in records:
        store.write(one)
    assert store.read()[0] == records
    assert store.read("b")[0] == records[2:]


def test_an_absent_folder_is_an_empty_store(tmp_path: Path) -> None:
    assert Store(tmp_path / "nowhere").read() == ([], [])


def test_other_files_are_left_alone(store: Store) -> None:
    path = store.write(record())
    path.with_suffix(".md").write_text("note")
    (store.folder / "README.json").write_text("{")
    assert store.read() == ([record()], [])


# Damage


def sign(path: Path, **changes: Any) -> None:
    """Change fields (`...`: leave out) as somebody would who knows how the SHA-256 is made."""
    body = json.loads(path.read_text()) | changes
    body = {name: value for name, value in body.items() if value is not ... and name != "sha256"}
    path.write_text(json.dumps(body | {"sha256": digest(body)}))


def reason(store: Store) -> str:
    """Why the only record is not used: one line, with the file's name."""
    records, (damaged,) = store.read()
    assert records == []
    assert "\n" not in str(damaged)
    assert str(damaged).startswith(f"{damaged.path}: ")
    return damaged.reason


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_record_is_reported_and_not_used(store: Store, share: float) -> None:
    path = store.write(record())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data)) - 2 if share else 0])
    assert reason(store) == "truncated, or not JSON"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("90.25", "90.26"),
        ('"seed": 3', '"seed": 4'),
        ('"numerics": 1', '"numerics": 2'),
        ('"sha256": "', '"sha256": "0'),
    ],
)
def test_an_altered_record_is_reported_and_not_used(store: Store, old: str, new: str) -> None:
    spoil(store.write(record()), old, new)
    assert reason(store).startswith("altered: ")


def test_blanks_and_line_ends_are_no_alteration(store: Store) -> None:
    """A checkout on another system may change them."""
    path = store.write(record())
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert store.read() == ([record()], [])


def test_a_record_of_another_format_is_reported_and_not_used(store: Store) -> None:
    sign(store.write(record()), format=FORMAT + 1)
    assert reason(store) == f"record format {FORMAT + 1}; this version reads {FORMAT}"
    (damaged,) = store.read()[1]
    assert damaged.later


def test_only_a_number_above_is_a_later_format(store: Store) -> None:
    path = store.write(record())
    for other in (FORMAT - 1, "2"):
        sign(path, format=other)
        assert not store.read()[1][0].later


def test_a_record_under_anothers_name_is_reported_and_not_used(store: Store) -> None:
    path = store.write(record())
    path.rename(path.with_name(path.name.replace(".3.", ".4.")))
    assert reason(store) == f"its content belongs to {record().key}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"values": ...}, "fields missing, unknown or of the wrong type: values"),
        ({"colour": "red"}, "fields missing, unknown or of the wrong type: colour"),
        ({"values": [1]}, "values: expected Mapping, got [1]"),
        ({"seed": None}, "seed: expected int, got None"),
        ({"scale": ["cpu"]}, "scale: ['cpu'] is none of smoke, cpu, gpu, paper"),
        ({"curve": None}, "curve: expected Sequence, got None"),
    ],
)
def test_a_signed_record_with_wrong_fields_is_reported_and_not_used(
    store: Store, changes: dict[str, Any], expected: str
) -> None:
    sign(store.write(record()), **changes)
    assert reason(store) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[]", "not a record"),
        (b'{"a": 1}', "not a record"),
        (b"\xff\xfe", "truncated, or not JSON"),
        (b"[" * 100_000, "truncated, or not JSON"),
        (b"1" * 5000, "truncated, or not JSON"),
        (b'{"format": 1, "values": NaN}', "holds a number that is not finite"),
    ],
)
def test_what_is_no_record_is_reported(store: Store, data: bytes, expected: str) -> None:
    store.write(record()).write_bytes(data)
    assert reason(store) == expected


def test_one_damaged_record_does_not_hide_the_others(store: Store) -> None:
    spoil(store.write(record()), "90.25", "90.26")
    store.write(record(seed=4))
    records, damaged = store.read()
    assert records == [record(seed=4)]
    assert len(damaged) == 1


def test_a_record_that_cannot_be_opened_is_reported(store: Store) -> None:
    path = store.write(record())
    path.unlink()
    path.symlink_to(path.parent / "nowhere")
    assert reason(store) == "cannot be read: No such file or directory"


# Writers that are killed, that race, that have no room

KILLED = """
import os, signal, sys
from pathlib import Path
from repro.evidence import records
from tests.made_up import record

def kill(file, path):
    {before}
    os.kill(os.getpid(), signal.SIGKILL)

publish, records.publish = records.publish, kill
records.Store(Path(sys.argv[1])).write(record(values={{"8": 2.0}}))
"""
WHEN = {
    "nothing on the disk": "file.raw.truncate(0); file = None",
    "half on the disk": "file.flush(); os.ftruncate(file.fileno(), 200)",
    "all on the disk, without a name": "file.flush(); os.fsync(file.fileno())",
    "named": "publish(file, path)",
}
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("when", WHEN)
def test_a_writer_killed_at_any_point_leaves_the_old_record_or_the_new(store: Store, when: str) -> None:
    store.write(record(values={"8": 1.0}))
    code = KILLED.format(before=WHEN[when])
    done = subprocess.run([sys.executable, "-c", code, str(store.folder)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (found,), damaged = store.read()
    assert (found.values, damaged) == ({"8": 2.0 if when == "named" else 1.0}, [])
    store.write(record(values={"8": 3.0}))
    assert store.read() == ([record(values={"8": 3.0})], [])
    assert [path.name for path in store.folder.iterdir()] == ["table9"]


BUSY = """
import sys
from itertools import count
from pathlib import Path
from repro.evidence.records import Store
from tests.made_up import record

store, seed = Store(Path(sys.argv[1])), int(sys.argv[2])
for i in count():
    store.write(record(seed=seed, values={"8": float(i)}))
    print(i, flush=True)
"""


class Writer:
    """A process that writes one record again and again until it is killed; the first is written when this returns."""

    def __init__(self, store: Store, seed: int) -> None:
        command = [sys.executable, "-c", BUSY, str(store.folder), str(seed)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.said = -1
        self.wait_for_next()

    def wait_for_next(self) -> None:
        assert self.process.stdout is not None
        self.said = int(self.process.stdout.readline())

    def kill(self) -> None:
        """Kill it; `said` is then the number of the last write that it said was finished."""
        assert self.process.stdout is not None
        self.process.kill()
        self.said = max([self.said, *map(int, self.process.stdout.read().split())])
        self.process.stdout.close()
        self.process.wait()


def test_a_writer_killed_at_random_leaves_what_it_wrote_last(store: Store) -> None:
    for delay in (0.0, 0.003, 0.011, 0.02):
        writer = Writer(store, seed=0)
        time.sleep(delay)
        writer.kill()
        (found,), damaged = store.read()
        assert damaged == []
        assert found.values["8"] in (writer.said, writer.said + 1)


def test_two_writers_at_once_lose_nothing(store: Store) -> None:
    """Two processes and a reader: every read is whole, and each writer's last record is there at the end."""
    writers = [Writer(store, seed) for seed in (0, 1)]
    for _ in range(20):
        records, damaged = store.read()
        assert (len(records), damaged) == (2, [])
        for writer in writers:
            writer.wait_for_next()
    for writer in writers:
        writer.kill()
    for found, writer in zip(store.read()[0], writers, strict=True):
        assert writer.said >= 20
        assert found.values["8"] in (writer.said, writer.said + 1)


def test_a_writer_waits_for_the_one_before_it_and_leaves_its_record_alone(store: Store) -> None:
    """The temporary file that it waited for has become somebody's record when it gets the lock."""
    store.folder.mkdir()
    waiting = Thread(target=store.write, args=(record(),))
    with open(store.folder / PARTIAL, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        file.write(b"theirs")
        file.flush()
        os.replace(store.folder / PARTIAL, store.folder / "theirs")
    waiting.join(10)
    assert (store.folder / "theirs").read_bytes() == b"theirs"
    assert store.read() == ([record()], [])


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as error:
        Store(tmp_path / "file").write(record())
    assert str(error.value).startswith(f"{tmp_path / 'file'}: cannot keep record {record().key}: ")
    assert "\n" not in str(error.value)


READ_ONLY = """
import os, sys
from pathlib import Path
from repro.evidence.records import Store, StoreError
from tests.made_up import record
made_up = record()
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write anywhere
try:
    Store(Path(sys.argv[1])).write(made_up)
except StoreError as error:
    print(error)
"""


def test_a_read_only_folder_is_named(store: Store) -> None:
    store.folder.mkdir()
    store.folder.chmod(0o555)
    command = [sys.executable, "-c", READ_ONLY, str(store.folder)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == f"{store.folder}: cannot keep record {record().key}: Permission denied\n"


def test_a_full_disk_is_named_and_leaves_the_old_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    store.write(record())
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot keep record table9/cpu/.*: No space left on device$"):
        store.write(record(values={"8": 1.0}))
    assert store.read() == ([record()], [])
    assert not (store.folder / PARTIAL).exists()


def test_a_record_that_cannot_be_right_never_reaches_the_disk(store: Store) -> None:
    broken = record()
    broken.values["8"] = float("nan")  # type: ignore[index]
    with pytest.raises(RecordError, match="not finite"):
        store.write(broken)
    assert store.read() == ([], [])


def test_loading_executes_nothing(store: Store, tmp_path: Path) -> None:
    """JSON only: a file that Python could run, or unpickle, is just damaged."""
    path = store.write(record())
    path.write_text(f"__import__('os').system('touch {tmp_path}/ran')")
    assert reason(store) == "truncated, or not JSON"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert reason(store) == "truncated, or not JSON"
    assert not (tmp_path / "ran").exists()
    assert os.listdir(tmp_path) == ["records"]
