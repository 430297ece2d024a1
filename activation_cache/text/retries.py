"""Rows of a dataset on the network: what fails or stalls is opened again, and no row is lost."""

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import Empty, Queue
from threading import Event, Thread
from time import sleep
from typing import Any

from activation_cache.common.errors import InputError, described
from activation_cache.common.threads import in_background

Row = dict[str, Any]
OpenRows = Callable[[], Iterable[Row]]
"""Opens a dataset, whose rows come in the same order every time."""

RETRY_AFTER_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses before further tries; a row that is new starts them over."""

ROW_TIMEOUT_S = 300.0
"""A row that takes longer counts as a failure. `datasets` itself tries for 100 s before it raises,
and the first row of a parquet file may come with hundreds of megabytes."""

READ_AHEAD_ROWS = 64
"""Rows that the reading thread keeps ready."""

PARTING_S = 1.0
"""How long a thread that is left may take to end before nobody waits for it any more."""

FINAL_ERRORS = (ValueError, ImportError)
"""Of another form, or in need of a package: another try finds the same."""

FINAL_AT_FIRST = (*FINAL_ERRORS, FileNotFoundError, RuntimeError)
"""Also not there, or a script: as long as no row was ever read. Later these may come from a hub
that answers badly and a connection that was closed."""

PASSING_STATUSES = (408, 425, 429)
"""HTTP answers in the four hundreds that another try may change."""

logger = logging.getLogger(__name__)

_ever_read: set[str] = set()
"""Datasets of which a row has come in this process."""


def patient_rows(source: str, open_rows: OpenRows) -> Iterator[Row]:
    """Every row of the dataset `source` once and in order, whatever fails on the way.

    After a failure or a stall the dataset is opened again, and read after the rows that were
    taken; a line of the log reports it. Raises `InputError` after the last try, and at once
    where another try cannot help.
    """
    last: Row | None = None
    n_taken = n_failed = 0
    while True:
        reading = _Reading(open_rows)
        try:
            for row in _after(reading, source, n_taken, last):
                last, n_taken, n_failed = row, n_taken + 1, 0
                _ever_read.add(source)
                yield row
            return
        except Exception as error:  # the readers of `datasets` raise many kinds
            n_failed += 1
            pause_s = _pause_s(source, error, n_taken, n_failed)
        finally:
            reading.abandon()
        sleep(pause_s)


def _after(reading: "_Reading", source: str, n_taken: int, last: Row | None) -> Iterator[Row]:
    """The rows after the first `n_taken`, of which `last` was the last one."""
    rows = iter(reading)
    for _ in range(n_taken - 1):
        next(rows, None)
    if last is not None and _texts(next(rows, {})) != _texts(last):
        raise InputError(
            f"row {n_taken:,} of the dataset {source!r} has changed while it was read: start again"
        )
    yield from rows


def _texts(row: Row) -> list[str]:
    return [value for value in row.values() if isinstance(value, str)]


class _Reading:
    """One pass over a dataset by a thread of its own, which can be left where it stalls."""

    def __init__(self, open_rows: OpenRows) -> None:
        self._queue: Queue[Row | BaseException | None] = Queue(READ_AHEAD_ROWS)
        left = Event()
        thread = in_background(
            partial(_pull, open_rows, self._queue, left),
            name="dataset",
            stop=partial(_leave, self._queue, left),
        )
        self.abandon = weakref.finalize(self, _abandon, self._queue, left, thread)
        self.abandon.atexit = False  # the end of the program waits longer

    def __iter__(self) -> Iterator[Row]:
        try:
            while (item := self._queue.get(timeout=ROW_TIMEOUT_S)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        except Empty:
            raise TimeoutError(f"nothing came for {ROW_TIMEOUT_S:g} s") from None


def _pull(open_rows: OpenRows, queue: Queue[Row | BaseException | None], left: Event) -> None:
    """Put every row into the queue, then None, or what was raised."""
    try:
        for row in open_rows():
            queue.put(row)
            if left.is_set():
                return
        queue.put(None)
    except BaseException as failure:  # whatever it is belongs to the reader
        queue.put(failure)


def _abandon(queue: Queue[Row | BaseException | None], left: Event, thread: Thread) -> None:
    _leave(queue, left)
    thread.join(PARTING_S)


def _leave(queue: Queue[Row | BaseException | None], left: Event) -> None:
    left.set()
    while not queue.empty():  # its thread may wait for room
        queue.get_nowait()


def _pause_s(source: str, error: Exception, n_taken: int, n_failed: int) -> float:
    """How long to wait for the next try, which is logged; `InputError` where there is none."""
    if isinstance(error, InputError):
        raise error
    cause = described(causes(error)[-1])
    if _is_final(error, ever_read=source in _ever_read):
        raise InputError(
            f"cannot read the dataset {source!r} ({cause}): check its name, and that you may read "
            f"it (`hf auth login`), or give 'docstrings' or a local .txt, .jsonl or .parquet file"
        ) from error
    where = f"the dataset {source!r} after row {n_taken:,} ({cause})"
    if n_failed > len(RETRY_AFTER_S):
        raise InputError(
            f"cannot read {where}, in {n_failed} tries: resume once the network and the hub are "
            f"well, or give a copy on this machine (.txt, .jsonl or .parquet)"
        ) from error
    pause_s = RETRY_AFTER_S[n_failed - 1]
    tries = f"{n_failed} of {len(RETRY_AFTER_S)}"
    logger.warning("cannot read %s: trying again in %g s (%s)", where, pause_s, tries)
    return pause_s


def _is_final(error: Exception, *, ever_read: bool) -> bool:
    """Whether another try would find the same, as far as one can tell."""
    for status in filter(None, map(_http_status, causes(error))):
        if ever_read:  # a signed link that has expired is refused with 403; opening gives another
            return status == 404
        return 400 <= status < 500 and status not in PASSING_STATUSES
    kinds = FINAL_ERRORS if ever_read else FINAL_AT_FIRST
    return all(isinstance(cause, kinds) for cause in causes(error)) and not _is_unreachable(error)


def _is_unreachable(error: Exception) -> bool:
    """Whether the hub's client means no connection where it speaks of a file that is not there."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, LocalEntryNotFoundError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _http_status(error: BaseException) -> int | None:
    """As aiohttp has it, or as requests, httpx and the hub's own client do."""
    answer = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(answer, "status_code", None)
    return status if isinstance(status, int) else None


def causes(error: BaseException) -> list[BaseException]:
    """The error and what it says that it was raised from, not what merely came before it."""
    found = [error]
    while (deeper := found[-1].__cause__) is not None:
        found.append(deeper)
    return found
