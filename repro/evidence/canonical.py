"""One text for one value: canonical JSON, and the digests that settings, records and plans are known by."""

from __future__ import annotations

import hashlib
import json


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes.

    Raises `ValueError` for NaN and infinity, `TypeError` for what JSON does not have.

    >>> canonical({"b": 0.5, "a": [1, None]})
    b'{"a":[1,null],"b":0.5}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical(value)).hexdigest()


def short_digest(value: object) -> str:
    """First 12 hexadecimal digits of `digest`: enough to tell settings apart, short enough for a file name."""
    return digest(value)[:12]
