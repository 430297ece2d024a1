"""Small files of a run folder: whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from activation_cache.storage import Storage
from sae.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Replace a file at once. `InputError` where the disk does not take it."""
    Storage(path.parent).write(path.name, text.encode())


@contextmanager
def only_user(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes out; `InputError` naming the one that is in it."""
    made = not os.path.lexists(folder)
    try:
        with Storage(folder).only_writer():
            yield
    finally:
        with suppress(OSError):  # it holds something, or could not be made
            if made:
                folder.rmdir()


@contextmanager
def told_of_the_disk(folder: Path) -> Iterator[None]:
    """What the disk refuses is told as bad input is: what to mend, and how to go on."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror or error}; mend that and go on with "
            f"--resume"
        ) from error
