"""Threads in the background, none of which outlives the interpreter."""

import atexit
from collections.abc import Callable
from threading import Thread
from time import monotonic

AT_THE_END_S = 10.0
"""How long the end of the program waits for them, all together."""

_running: dict[Thread, Callable[[], None]] = {}


def in_background(target: Callable[[], None], name: str, stop: Callable[[], None]) -> Thread:
    """Start a thread. When the program ends, `stop` is called, which asks it to end, too.

    A thread that is in a library's C++ code while Python shuts down ends the program with
    "terminate called without an active exception", whatever its exit code was to be.
    """

    def run() -> None:
        try:
            target()
        finally:
            _running.pop(thread, None)

    thread = Thread(target=run, name=name, daemon=True)
    _running[thread] = stop
    thread.start()
    return thread


@atexit.register
def _end_all() -> None:
    latest = monotonic() + AT_THE_END_S
    left = list(_running.items())
    for _, stop in left:
        stop()
    for thread, _ in left:
        thread.join(max(0.0, latest - monotonic()))
