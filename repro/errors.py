"""Errors that a user can act on: each is one line that says what is wrong and what to do, with an exit code."""


class ReproError(Exception):
    """Something needed is missing or unusable (data, checksum, device, output folder): exit code 3."""

    exit_code = 3


class UsageError(ReproError):
    """The command was given something it does not know: exit code 2."""

    exit_code = 2
