"""Small files of a run folder: whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from activation_cache.errors import InputError as CacheInputError
from activation_cache.storage import TEMPORARY, Storage
from sae.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Replace a file at once. `OSError` where the disk does not take it."""
    try:
        Storage(path.parent).write(path.name, text.encode())
    except CacheInputError as error:  # how to go on is another thing here than with a cache
        raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None


@contextmanager
def only_user(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes out; `InputError` naming the one that is in it."""
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        with Storage(folder).only_writer():
            _remove_leftovers(folder)
            yield
    finally:
        for path in made:
            with suppress(OSError):  # it holds something, or could not be made
                path.rmdir()


def _remove_leftovers(folder: Path) -> None:
    """What a kill has left of files that were being written."""
    for name in ("config.json", "eval.json", "results.json"):
        for path in folder.rglob(f"{name}.*{TEMPORARY}"):
            path.unlink(missing_ok=True)


def refuse_gone(folder: Path) -> None:
    """`InputError` where the folder of a run is no longer there: to write would make it anew."""
    if not folder.is_dir():
        raise InputError(
            f"the folder {folder} is gone, with the log of this training: bring it back and go on "
            f"with --resume"
        )


@contextmanager
def told_of_the_disk(folder: Path) -> Iterator[None]:
    """What the disk refuses is told as bad input is: what to mend, and how to go on."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the disk failed with {error.filename or folder}: {error.strerror or error}; mend "
            f"that and go on with --resume"
        ) from error
