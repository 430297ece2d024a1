"""Files and folders that are whole or not there, whatever happens while they are written."""

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

TEMPORARY = ".tmp"
"""Ends the name of what is being written; one that is left over means nothing."""

LEFT_OVER = re.compile(rf".+\.\d+-\d+\{TEMPORARY}")
"""Such a name: of the file, the process and the thread."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` for a file or a folder, which takes the place of `path` at the end.

    Atomic, and on the disk once the context ends. Where it ends in an error, what was there before
    is untouched. `OSError` where the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{os.getpid()}-{threading.get_ident()}"
    aside = path.with_name(f"{path.name}.{writer}{TEMPORARY}")
    _remove(aside)
    try:
        yield aside
        for written in (*aside.rglob("*"), aside) if aside.is_dir() else (aside,):
            _sync(written)
        if aside.is_dir() and path.exists():
            shutil.rmtree(path)
        aside.replace(path)
        _sync(path.parent)
    except BaseException as error:
        _remove(aside)
        if isinstance(error, SafetensorError):  # what its library makes of a full disk
            raise OSError(str(error)) from error
        raise


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file at once."""
    with replacing(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


def write_together(folder: Path, files: Mapping[str, Callable[[Path], Any]]) -> None:
    """Write each file aside, then put them there in this order. Give the config last."""
    with ExitStack() as at_the_end:
        aside = {n: at_the_end.enter_context(replacing(folder / n)) for n in reversed([*files])}
        for name, write in files.items():
            write(aside[name])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers had not finished below a folder."""
    for path in folder.rglob(f"*{TEMPORARY}"):
        if LEFT_OVER.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have the disk itself hold a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)
