"""Errors that a user can act on: each is one line that says what is wrong and what to do, with an exit code."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches

INTERNAL = 70
INTERRUPTED = 130
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
UNUSABLE = {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EIO,
}  # fmt: skip


class ReproError(Exception):
    """Something needed is missing or unusable (data, checksum, device, output folder): exit code 3."""

    exit_code = 3


class UsageError(ReproError):
    """The command was given something it does not know: exit code 2."""

    exit_code = 2


def suggestion(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them.

    >>> suggestion("tabel3", ["figure2", "table3"]), suggestion("x", ["figure2", "table3"])
    ('did you mean table3?', 'known: figure2, table3')
    """
    known = list(known)
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and one line for any error: a full or unusable place is the user's to mend, a bug is ours.

    >>> explain(UsageError("no target 'tabel1': did you mean table1?"))
    (2, "no target 'tabel1': did you mean table1?")
    >>> explain(OSError(errno.ENOSPC, "No space left on device", "runs/a.json"))
    (3, 'runs/a.json: No space left on device; free some space, or choose another folder (--out, --data-root)')
    >>> explain(KeyError("step"))
    (70, "internal error, KeyError: 'step'; run again with --debug to see where")
    """
    line = " ".join(str(error).split())
    if isinstance(code := getattr(error, "exit_code", None), int):
        return code, line
    if isinstance(error, OSError):
        system = error if error.errno else error.__cause__
        if isinstance(system, OSError) and system.errno in FULL | UNUSABLE:
            what = line if error is not system else f"{error.filename or 'output'}: {error.strerror}"
            remedy = "free some space, or " if system.errno in FULL else ""
            return ReproError.exit_code, f"{what}; {remedy}choose another folder (--out, --data-root)"
    return INTERNAL, f"internal error, {type(error).__name__}: {line}; run again with --debug to see where"
