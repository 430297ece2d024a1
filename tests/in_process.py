"""Commands, called as a user would call them, in the process of the tests."""

import contextlib
import io
from collections.abc import Callable
from typing import NamedTuple

from sae.commands.exits import run_command


class Done(NamedTuple):
    code: int
    out: str
    err: str


def called(main: Callable[[list[str]], None], *arguments: object) -> Done:
    """Run a command with arguments: exit code and output."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_command(main, [*map(str, arguments)])
        except SystemExit as exit_:
            assert isinstance(exit_.code, int)
            code = exit_.code
    return Done(code, out.getvalue(), err.getvalue())
