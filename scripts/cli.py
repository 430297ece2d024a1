"""What every script has in common: flags from a dataclass, one line for bad input, exit codes."""

import contextlib
import io
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from activation_cache.memory import keep_freed_memory
from sae.runs.errors import BAD_INPUT
from sae.runs.signals import interrupted_by_sigterm

Flags = TypeVar("Flags")


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
    except BAD_INPUT as error:
        fail(str(error))
    except KeyboardInterrupt as interrupt:
        message = f"interrupted {interrupt}".strip()
        print(message, file=sys.stderr)
        sys.exit(128 + getattr(interrupt, "signum", signal.SIGINT))


def fail(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _one_line(box: str) -> str:
    """The text inside the frame that tyro draws around its errors."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [re.sub(r"[─-╿]+|-{4,}", " ", line).strip() for line in plain.splitlines()]
    text = " ".join(" ".join(lines).split())
    return re.sub(r"^(Parsing error|Invalid choice|Value error|Required options) ", "", text)
