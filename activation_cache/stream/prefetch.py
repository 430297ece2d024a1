"""Prepare batches in the background while earlier ones are used."""

import weakref
from collections import deque
from collections.abc import Iterator
from threading import Condition, Lock, Thread
from typing import Any, Protocol, runtime_checkable

from activation_cache.common.threads import in_background
from activation_cache.stream.shuffle import Rows


@runtime_checkable
class ResumableStream(Protocol):
    """Batches of rows with a position that can be saved and restored."""

    def __next__(self) -> Rows: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Prefetch:
    """Serves the batches of `source` in their order, keeping up to `depth` of them ready.

    One thread takes them from the source; torch and file reads let the other threads work
    meanwhile. What the source raises is raised here, once the batches before it are served. Close
    it, or use it as a context manager, or let go of it: the thread ends after the batch it is at.

    `state_dict` waits for the batch in the making and holds those not yet served, so that a
    restored stream serves exactly the batches that this one would have served next.
    """

    def __init__(self, source: ResumableStream, *, depth: int = 4) -> None:
        self._queue = _Queue(source, depth)
        # The thread knows the queue alone, so that this object can be collected while it runs.
        weakref.finalize(self, self._queue.close)
        self._thread: Thread | None = None

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        if self._thread is None:
            self._thread = in_background(self._queue.fill, "prefetch", stop=self._queue.close)
        return self._queue.take()

    def close(self) -> None:
        """Stop the background thread and drop what it had ready."""
        self._queue.close()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        return self._queue.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Call it before the first batch is taken."""
        self._queue.load_state_dict(state)


class _Queue:
    """Batches between the thread that takes them from the source and the one that uses them."""

    def __init__(self, source: ResumableStream, depth: int) -> None:
        self._source = source
        self._depth = depth
        self._ready: deque[Rows] = deque()
        self._failure: BaseException | None = None
        self._closed = False
        self._changed = Condition()  # guards the three above
        self._taking = Lock()  # held while the source is in use

    def take(self) -> Rows:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._failure or self._closed)
            if self._ready:
                batch = self._ready.popleft()
                self._changed.notify_all()
                return batch
            if self._failure is not None:
                raise self._failure
            raise StopIteration

    def fill(self) -> None:
        """Take batches until the source fails or ends, or the queue is closed."""
        while self._wait_for_room():
            with self._taking:
                try:
                    batch = next(self._source)  # type: ignore[call-overload]
                except BaseException as failure:  # whatever it is belongs to the reader
                    with self._changed:
                        self._failure = failure
                        self._changed.notify_all()
                    return
                with self._changed:
                    self._ready.append(batch)
                    self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
            return not self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()

    def state_dict(self) -> dict[str, Any]:
        with self._taking, self._changed:
            return {"source": self._source.state_dict(), "ready": list(self._ready)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._source.load_state_dict(state["source"])
        self._ready.extend(state["ready"])
