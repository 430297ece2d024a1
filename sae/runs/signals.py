"""Signals that end a run: SIGINT, SIGTERM, and the one by which a cluster takes a machine back."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SHOW_CURSOR = b"\x1b[?25h"

Handler = Callable[[int, FrameType | None], None]


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; the message says what is saved. Scripts exit with 128 + `signum`."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """Whether a signal has asked for the end, and which one."""

    def __init__(self) -> None:
        self.signum: int | None = None


def signal_number(name: str) -> int | None:
    """The number of USR1 or SIGUSR1, say; None where there is no signal of that name."""
    known = signal.Signals.__members__
    found = known.get(name) or known.get(f"SIG{name}")
    return None if found is None or found in (signal.SIGKILL, signal.SIGSTOP) else int(found)


@contextmanager
def deferred(extra: str | None = None) -> Iterator[StopRequest]:
    """Within it, the first signal is only noted, and the second one ends the process at once.

    So a step is finished and a checkpoint written, and who cannot wait for that need not. Outside
    the main thread, where Python has no handlers, nothing is deferred.
    """
    request = StopRequest()

    def note(signum: int, _frame: FrameType | None) -> None:
        if request.signum is not None:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), SHOW_CURSOR)
            os._exit(128 + signum)
        request.signum = signum

    with _handled([signal.SIGINT, signal.SIGTERM, *_numbers(extra)], note):
        yield request
    if request.signum is not None:  # it came too late to be asked about, and is not lost
        signal.raise_signal(request.signum)


@contextmanager
def with_resume_hint(extra: str | None = None) -> Iterator[None]:
    """Within it, what interrupts says how to resume, and `extra` interrupts where not deferred."""
    try:
        with _handled(_numbers(extra), _interrupt):
            yield
    except KeyboardInterrupt as interrupt:
        if str(interrupt):
            raise
        signum = getattr(interrupt, "signum", signal.SIGINT)
        raise Interrupted(signum, "outside of the training: resume with --resume") from None


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Within it, SIGTERM raises `Interrupted` where it is not deferred, as Ctrl-C does."""
    with _handled([signal.SIGTERM], _interrupt):
        yield


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    raise Interrupted(signum, "")


def _numbers(name: str | None) -> list[int]:
    number = signal_number(name) if name else None
    return [] if number is None else [number]


@contextmanager
def _handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Within it, these signals have this handler, but for those whose handler is C code's.

    Python could not put such a handler back.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
    taken = {number: old for number, old in before.items() if old is not None}
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)
