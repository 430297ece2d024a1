"""How a script refuses bad input: in one line, and leaving nothing behind."""

from pathlib import Path
from typing import Protocol


class Done(Protocol):
    """How a script ended."""

    @property
    def code(self) -> int: ...

    @property
    def err(self) -> str: ...


def refusal_of(done: Done, out: Path) -> str:
    """The one line that it says, with exit code 2 and no `out`."""
    assert done.code == 2, done
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert len(done.err) < 1000, f"{len(done.err)} characters"
    assert not out.exists()
    return done.err
