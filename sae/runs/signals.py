"""Signals that end a run: SIGINT, SIGTERM, and the one by which a cluster takes a machine back."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

SHOW_CURSOR = b"\x1b[?25h"


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

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    also = signal_number(extra) if extra else None
    before = {
        signum: signal.signal(signum, note)
        for signum in (signal.SIGINT, signal.SIGTERM, also)
        if signum is not None
    }
    try:
        yield request
    finally:
        _restore(before)
    if request.signum is not None:  # it came too late to be asked about, and is not lost
        signal.raise_signal(request.signum)


def _restore(handlers: Mapping[int, Any]) -> None:
    for signum, handler in handlers.items():
        if handler is not None:  # else it is none of Python's: C code's, of which we know nothing
            signal.signal(signum, handler)


@contextmanager
def told_how_to_go_on(extra: str | None = None) -> Iterator[None]:
    """Within it, what interrupts says how to go on, and `extra` interrupts where not deferred."""
    try:
        with _interrupted_by(signal_number(extra) if extra else None):
            yield
    except KeyboardInterrupt as interrupt:
        if str(interrupt):
            raise
        signum = getattr(interrupt, "signum", signal.SIGINT)
        raise Interrupted(signum, "outside of the training: go on with --resume") from None


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Within it, SIGTERM raises `Interrupted` where it is not deferred, as Ctrl-C does."""
    with _interrupted_by(signal.SIGTERM):
        yield


@contextmanager
def _interrupted_by(number: int | None) -> Iterator[None]:
    def interrupt(signum: int, _frame: FrameType | None) -> None:
        raise Interrupted(signum, "")

    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, interrupt)
    try:
        yield
    finally:
        _restore({number: before})
