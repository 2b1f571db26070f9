"""Records: one JSON file per finished unit of work, and the folder that keeps them."""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from repro.evidence.canonical import digest, short_digest
from repro.evidence.claims import RUN_SCALES
from repro.evidence.files import publish

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

Scalar = str | int | float | bool | None

FORMAT = 1
"""Version of the file format. A record of another version is reported and not used."""

PARTIAL = ".partial"
"""File in a store's folder that a record is written to before it gets its name; also the writers' lock."""


class RecordError(ValueError):
    """A record that cannot be right: one line that says which field, and why."""


class LaterFormatError(RecordError):
    """A record of a format that only a later version of this code reads."""


class StoreError(OSError):
    """A folder that records cannot be written to: one line that names folder and reason."""


def settings_hash(settings: Mapping[str, Scalar]) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the settings' canonical JSON; the order of keys does not matter.

    >>> settings_hash({"epochs": 5, "width": 16}) == settings_hash({"width": 16, "epochs": 5})
    True
    >>> settings_hash({"epochs": 5}) == settings_hash({"epochs": 5.0})
    False
    """
    return short_digest(dict(settings))


def pack(correct: ArrayLike) -> str:
    """Correctness of each test item as text: the number of items, a colon, and their bits (first item in the highest
    bit of the first byte) in base64. 10,000 items take 1.7 kB. Raises `RecordError` unless `correct` is a flat
    array of bool.

    >>> pack([True, False, False, True, True])
    '5:mA=='
    """
    import numpy as np

    flags = np.asarray(correct)
    if flags.dtype != np.bool_ or flags.ndim != 1:
        raise RecordError(f"correct: expected a flat array of bool, got {flags.dtype} of shape {flags.shape}")
    return f"{flags.size}:{base64.b64encode(np.packbits(flags).tobytes()).decode('ascii')}"


def unpack(packed: str) -> np.ndarray:
    """The array of bool, shape `(items,)`, that `pack` made into text. Raises `RecordError` for any other text.

    >>> unpack("5:mA==").tolist()
    [True, False, False, True, True]
    """
    import numpy as np

    count, data = _split(packed)
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(np.bool_)


def _split(packed: str) -> tuple[int, bytes]:
    count, colon, text = packed.partition(":")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RecordError("correct: not base64") from None
    if not (colon and count.isascii() and count.isdigit() and len(data) == -(-int(count) // 8)):
        raise RecordError(f"correct: {len(data)} bytes do not hold {count!r} items")
    if int(count) % 8 and data[-1] & (0xFF >> int(count) % 8):
        raise RecordError("correct: bits are set after the last item")
    return int(count), data


NAME = re.compile(r"[A-Za-z0-9_+-]+")
"""Of a target or a unit."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one finished unit of work found, and all that is needed to say where the numbers come from.

    Raises `RecordError` on creation when a field cannot be right. Learning-curve entries that are not finite (a loss
    that diverged) are kept as `None`; values and settings must be finite.
    """

    target: str
    scale: str
    unit: str
    """Name of the unit of work within the target: letters, digits, `_`, `+` and `-`."""
    seed: int
    settings: Mapping[str, Scalar]
    """Every named setting that can change the result, and no other."""
    numerics: int
    """Version of what the unit computes, raised by hand when its results would change."""
    values: Mapping[str, float]
    """By column, in `unit_of_values`: at the last epoch."""
    unit_of_values: str
    best: Mapping[str, float] = field(default_factory=dict)
    """By column: at the epoch that the paper's own rule picks."""
    correct: Mapping[str, str] = field(default_factory=dict)
    """By column: correctness of each test item, as `pack` writes it."""
    curve: Sequence[Mapping[str, float | None]] = ()
    """Learning curve, one small mapping per epoch."""
    backend: str | None = None
    device: str = "cpu"
    threads: int = 1
    workers: int = 1
    wall_seconds: float = 0.0
    images_per_second: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    cpu: str = ""
    gpu: str | None = None
    commit: str = ""
    dirty: bool = False
    started: str = ""
    """Start time, ISO 8601, UTC."""
    command: str = ""
    preregistration: str = ""
    """Hash of the target's section of the preregistration at the time of the run."""

    def __post_init__(self) -> None:
        _check(self)
        for name in ("settings", "values", "best", "correct", "versions"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        curve = [{key: _finite(value) for key, value in point.items()} for point in self.curve]
        object.__setattr__(self, "curve", curve)

    @property
    def settings_hash(self) -> str:
        """`settings_hash(self.settings)`."""
        return settings_hash(self.settings)

    @property
    def key(self) -> str:
        """`target/scale/unit.seed.hash`, which is also its path in a store, without `.json`."""
        return f"{self.target}/{self.scale}/{self.unit}.{self.seed}.{self.settings_hash}"

    def outcome(self) -> dict[str, Any]:
        """What must be equal between a run that was killed and resumed and one that never was (bit for bit on CPU)."""
        timeless = [{k: v for k, v in point.items() if not k.endswith("seconds")} for point in self.curve]
        names = ("target", "scale", "unit", "seed", "settings", "numerics", "values", "best", "correct")
        return {name: getattr(self, name) for name in names} | {"curve": timeless}


def _check(record: Record) -> None:
    for name in ("target", "unit"):
        if not NAME.fullmatch(_expect(record, name, str)):
            raise RecordError(f"{name}: {getattr(record, name)!r} has characters other than letters, digits, _ + -")
    if record.scale not in RUN_SCALES:
        raise RecordError(f"scale: {record.scale!r} is none of {', '.join(RUN_SCALES)}")
    for name in ("seed", "numerics", "threads", "workers"):
        _expect(record, name, int)
    if record.seed < 0:
        raise RecordError(f"seed: {record.seed} is negative")
    _expect(record, "dirty", bool)
    for name in ("unit_of_values", "device", "cpu", "commit", "started", "command", "preregistration"):
        _expect(record, name, str)
    for name in ("backend", "gpu"):
        if getattr(record, name) is not None:
            _expect(record, name, str)
    for name in ("wall_seconds", "images_per_second"):
        _check_number(name, getattr(record, name))
    _check_mappings(record)


def _check_mappings(record: Record) -> None:
    for name in ("settings", "values", "best", "correct", "versions"):
        mapping = _expect(record, name, Mapping)
        if not all(isinstance(key, str) for key in mapping):
            raise RecordError(f"{name}: a key is not text")
        for key, value in mapping.items():
            place = f"{name}[{key!r}]"
            if name in ("values", "best"):
                _check_number(place, value)
            elif name == "settings":
                if isinstance(value, float) or not isinstance(value, str | int | None):
                    _check_number(place, value)
            elif not isinstance(value, str):
                raise RecordError(f"{place}: expected text, got {value!r}")
            elif name == "correct":
                _split(value)
    if not record.values:
        raise RecordError("values: empty")
    for point in _expect(record, "curve", Sequence):
        if not (isinstance(point, Mapping) and all(isinstance(value, int | float | None) for value in point.values())):
            raise RecordError(f"curve: expected numbers by name, got {point!r}")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _expect(record: Record, name: str, kind: type) -> Any:
    value = getattr(record, name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RecordError(f"{name}: expected {kind.__name__}, got {value!r}")
    return value


def _check_number(place: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecordError(f"{place}: expected a finite number, got {value!r}")


@dataclass(frozen=True)
class Damaged:
    """A record file that is not used, and why, in one line."""

    path: Path
    reason: str
    later: bool = False
    """Whether it is of a format that only a later version reads."""

    @property
    def remedy(self) -> str:
        """What to do where it is committed."""
        return "update the checkout" if self.later else "bring it back: git checkout"

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Store:
    """A folder of records, `<folder>/<key>.json`: plain files that diff well and survive a killed writer."""

    folder: Path

    def path(self, record: Record) -> Path:
        """Where the record is, or would be, kept."""
        return Path(self.folder) / f"{record.key}.json"

    def write(self, record: Record) -> Path:
        """Keep a record; one of the same key is replaced. Returns its path.

        A reader, at any moment and after any crash, finds the old file or the new one, whole: the bytes go to a
        temporary file, to the disk, and only then get their name. One process writes at a time; others wait.
        Raises `StoreError` when the folder cannot be written to (read-only, full); nothing is left behind then.
        """
        path, body = self.path(record), _body(record)
        text = json.dumps(body | {"sha256": _digest(body)}, sort_keys=True, indent=1) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._partial() as file:
                file.write(text.encode("ascii"))
                publish(file, path)
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot keep record {record.key}: {error.strerror or error}") from error
        return path

    def forget(self, record: Record) -> None:
        """Delete a record, unless another of the same key has taken its place."""
        path = self.path(record)
        try:
            if load(path) == record:
                path.unlink(missing_ok=True)
        except RecordError:
            pass

    def has(self, key: str, numerics: int) -> bool:
        """Whether a record of this key and these numerics is here and can be used."""
        try:
            found = load(Path(self.folder) / f"{key}.json")
            return (found.key, found.numerics) == (key, numerics)
        except RecordError:
            return False

    @contextmanager
    def _partial(self) -> Iterator[IO[bytes]]:
        """The temporary file, empty and locked.

        Lock and temporary file are one: whoever waited for it may find that it has meanwhile become somebody's
        record, and then tries again. A killed writer leaves at most this one file, and the next writer reuses it.
        """
        path = Path(self.folder) / PARTIAL
        while True:
            with open(path, "ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not _is_still(file, path):
                    continue
                try:
                    file.truncate(0)
                    yield file
                except BaseException:
                    if _is_still(file, path):
                        path.unlink()
                    raise
                return

    def read(self, target: str | None = None) -> tuple[list[Record], list[Damaged]]:
        """All records (of one target), sorted by key, and the files that cannot be used with the reason for each.

        Damaged is a file that is truncated, altered since it was written (its content and its SHA-256 differ), of
        another format version, or not where its content belongs. Loading executes nothing that a file says.
        """
        records, damaged = [], []
        for path in sorted(Path(self.folder).glob(f"{target or '*'}/*/*.json")):
            try:
                record = load(path)
                if self.path(record) != path:
                    raise RecordError(f"its content belongs to {record.key}")
                records.append(record)
            except RecordError as error:
                damaged.append(Damaged(path, str(error), isinstance(error, LaterFormatError)))
        return records, damaged


def _is_still(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def load(path: Path) -> Record:
    """The record in one file. Raises `RecordError`, in one line, when the file cannot be used."""
    try:
        body = json.loads(path.read_bytes())
    except OSError as error:
        raise RecordError(f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise RecordError("truncated, or not JSON") from None
    if not isinstance(body, dict) or "format" not in body:
        raise RecordError("not a record")
    if body["format"] != FORMAT:
        later = isinstance(body["format"], int) and body["format"] > FORMAT
        kind = LaterFormatError if later else RecordError
        raise kind(f"record format {body['format']!r}; this version reads {FORMAT}")
    claimed = body.pop("sha256", None)
    if claimed != _digest(body):
        raise RecordError("altered: its content does not have the SHA-256 that it names")
    del body["format"]
    try:
        return Record(**body)
    except TypeError:
        names = {f.name for f in fields(Record)}
        wrong = sorted(names ^ body.keys())
        raise RecordError(f"fields missing, unknown or of the wrong type: {', '.join(wrong) or 'type'}") from None


def _body(record: Record) -> dict[str, Any]:
    return {"format": FORMAT} | asdict(record)


def _digest(body: Mapping[str, Any]) -> str:
    try:
        return digest(body)
    except ValueError:
        raise RecordError("holds a number that is not finite") from None
