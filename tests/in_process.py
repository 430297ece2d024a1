"""Scripts, called as a user would call them, in the process of the tests."""

import contextlib
import io
import sys
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

from cli import run_script


class Done(NamedTuple):
    code: int
    out: str
    err: str


def called(main: Callable[[], None], *arguments: object) -> Done:
    """Run a script's main with arguments: exit code and output."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", ["script", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_script(main)
        except SystemExit as exit_:
            assert isinstance(exit_.code, int)
            code = exit_.code
    return Done(code, out.getvalue(), err.getvalue())
