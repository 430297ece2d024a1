"""A dataset that fails or stalls, for tests that do not wait for it."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from activation_cache.text import retries as patience
from activation_cache.text.split import is_held_out

SOURCE = "owner/name"
ROWS = [{"text": f"document {i}"} for i in range(200)]
RESET = ConnectionResetError(104, "Connection reset by peer")


class Flaky:
    """A dataset that raises `error` in front of each row of `at`, the first `times` that it comes.

    Calling it opens it. An error that is None is a stall: the row never comes.
    """

    stalls_end = threading.Event()

    def __init__(
        self,
        at: Iterable[int] = (),
        error: BaseException | None = RESET,
        times: int = 1,
        rows: list[dict[str, Any]] = ROWS,
    ) -> None:
        self.n_opened = 0
        self._rows = rows
        self._left = dict.fromkeys(at, times)
        self._error = error

    def __call__(self) -> Iterator[dict[str, Any]]:
        self.n_opened += 1
        for i, row in enumerate([*self._rows, {}]):
            if self._left.get(i, 0):
                self._left[i] -= 1
                self._fail()
            if row:
                yield row

    def _fail(self) -> None:
        if self._error is not None:
            raise self._error
        self.stalls_end.wait()


@contextmanager
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The pauses that were made; in truth none. No dataset was ever read before."""
    made: list[float] = []
    monkeypatch.setattr(patience, "sleep", made.append)
    monkeypatch.setattr(patience, "PARTING_S", 0.0)
    monkeypatch.setattr(patience, "_ever_read", set())
    monkeypatch.setattr(Flaky, "stalls_end", threading.Event())
    yield made
    Flaky.stalls_end.set()


def texts_of(rows: list[dict[str, Any]]) -> list[str]:
    """The documents of the training split among rows."""
    return [row["text"] for row in rows if not is_held_out(row["text"])]
