"""The one exception for input that a user can mend."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """What was given cannot be used: the message names the thing, its value and the remedy.

    Scripts print the message as one line and exit with code 2; every other exception is a bug.
    """


def refuse_below(least: int, **values: int) -> None:
    """`InputError` for the first of the values that is smaller."""
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")


@contextmanager
def disk_errors_as_input_errors(folder: Path) -> Iterator[None]:
    """Within it, what the disk refuses is bad input: the message says how to resume."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the disk failed with {error.filename or folder}: {error.strerror or error}; mend "
            f"that and go on with --resume"
        ) from error
