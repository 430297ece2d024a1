"""The one exception for input that a user can fix."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_CAUSE = 200
"""Characters of another error's message that are quoted."""


class InputError(ValueError):
    """What was given cannot be used: the message names the thing, its value and the remedy.

    Scripts print the message as one line and exit with code 2; every other exception is a bug.
    """


def described(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    message = next(iter(str(error).strip().splitlines()), "no message")
    return f"{type(error).__name__}: {message[:LONGEST_CAUSE]}"


def refuse_below(least: int, **values: int | float | None) -> None:
    """`InputError` for the first of the values that is smaller or not finite; None is none."""
    for name, value in values.items():
        if value is not None and not least <= value < math.inf:
            raise InputError(f"{name} must be at least {least}, got {value}")


def refuse_not_positive(**values: int | float | None) -> None:
    """`InputError` for the first of the values that is not positive and finite; None is none."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} must be positive, got {value}")


@contextmanager
def disk_errors_as_input_errors(folder: Path) -> Iterator[None]:
    """Within it, what the disk refuses is bad input: the message says how to resume."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the disk failed with {error.filename or folder}: {error.strerror or error}; fix "
            f"that and resume with --resume"
        ) from error
