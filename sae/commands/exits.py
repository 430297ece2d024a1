"""How commands end: 0 on success, 2 with one line on bad input, 130 on Ctrl-C."""

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from activation_cache.common.errors import InputError
from activation_cache.common.memory import keep_freed_memory
from sae.runs.signals import interrupted_by_sigterm

LONGEST_WORD = 200
"""Characters of a name or a value that an error shows."""


def run_command(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> None:
    """Run a command: 0 on success, 2 with one line on bad input, 130 on Ctrl-C, 143 on SIGTERM."""
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may have letters that a terminal has not
            stream.reconfigure(errors="backslashreplace")
    try:
        with interrupted_by_sigterm(), _plain_warnings():
            main(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt as interrupt:
        message = f"interrupted {interrupt}".strip()
        print(message, file=sys.stderr)
        sys.exit(128 + getattr(interrupt, "signum", signal.SIGINT))
    except BrokenPipeError:  # of `| head`: nobody reads on, and Python would say so at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Within it, a warning of ours is one line, without the place in the code."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **rest: Any) -> None:
        if category is UserWarning:
            print(f"warning: {message}", file=sys.stderr)
        else:
            shown(message, category, *place, **rest)

    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def fail(message: str) -> NoReturn:
    """End with one line, whatever a file or a flag has put into it, and with exit code 2."""
    words = (w if len(w) <= LONGEST_WORD else f"{w[:LONGEST_WORD]}..." for w in message.split())
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(words))
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def refuse_unwritable(path: Path) -> None:
    """End with one line, before any work is done, where no file can be written."""
    try:
        is_folder, has_folder = path.is_dir(), path.absolute().parent.is_dir()
        if has_folder and not is_folder and os.access(path.parent, os.W_OK):
            path.exists()  # raises where the name is too long
            return
        reason = "it is a folder" if is_folder else f"{path.parent} is no folder to write to"
    except OSError as error:
        reason = error.strerror or str(error)
    fail(f"cannot write to {path}: {reason}; name a file in a folder that is there")
