"""What every script has in common: flags from a dataclass, one line for bad input, exit codes."""

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from activation_cache.common.errors import InputError
from activation_cache.common.memory import keep_freed_memory
from sae.runs.signals import interrupted_by_sigterm

Flags = TypeVar("Flags")

LONGEST_WORD = 200
"""Characters of a name or a value that an error shows."""


HEADINGS = (
    *("Parsing error", "Invalid choice", "Value error", "Required options"),
    *("Unrecognized options", "Missing argument"),
)
"""What tyro writes above its errors."""

MISREAD = r"^Error parsing (-\S+): .*?(?:from \[|: )('[^']*').*? Argument helptext: \S+ (\S+) (.*)$"
"""How tyro says that a value is of another kind: the flag, the value, the kind and the help."""


def parse(flags: type[Flags], arguments: list[str], default: Flags | None = None) -> Flags:
    """Parse the arguments. A flag that is wrong is told in one line, with exit code 2."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            append = (tyro.conf.UseAppendAction,)
            if default is None:
                return tyro.cli(flags, args=arguments, config=append)
            return tyro.cli(flags, args=arguments, config=append, default=default)
    except SystemExit as exit_:
        if exit_.code == 2:
            fail(_one_line(told.getvalue()))
        raise


def config_argument(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` out of the arguments; the other flags override what the file says."""
    for i, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config=")), arguments[:i] + arguments[i + 1 :]
        if argument == "--config":
            if i + 1 == len(arguments):
                fail("--config needs the path of a JSON or YAML file")
            return Path(arguments[i + 1]), arguments[:i] + arguments[i + 2 :]
    return None, arguments


def run_script(main: Callable[[], None]) -> None:
    """Run a script: 0 on success, 2 with one line on bad input, 130 on Ctrl-C, 143 on SIGTERM."""
    keep_freed_memory()
    try:
        with interrupted_by_sigterm():
            main()
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt as interrupt:
        message = f"interrupted {interrupt}".strip()
        print(message, file=sys.stderr)
        sys.exit(128 + getattr(interrupt, "signum", signal.SIGINT))


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


def fail(message: str) -> NoReturn:
    """End with one line, whatever a file or a flag has put into it, and with exit code 2."""
    words = (w if len(w) <= LONGEST_WORD else f"{w[:LONGEST_WORD]}..." for w in message.split())
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(words))
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def _one_line(box: str) -> str:
    """The text inside the frame that tyro draws around its errors."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [re.sub(r"[─-╿]+|-{4,}", " ", line).strip() for line in plain.splitlines()]
    text = " ".join(" ".join(lines).split())
    text = re.sub(r" For full helptext, (see|run) .*$", "; --help shows all flags", text)
    text = re.sub(rf"^({'|'.join(HEADINGS)}) (Error parsing (?!-)\w+: )?", "", text)
    text = re.sub(r"^Error parsing (?!-)\w+: ", "", text)
    return re.sub(MISREAD, r"\1 takes \3, got \2: \4", text)
