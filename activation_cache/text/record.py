"""A record of the documents that were read: so another text under the same name is noticed."""

from collections.abc import Mapping
from typing import Any

import xxhash

from activation_cache.common.errors import InputError

MARKS = 1024
"""Hashes that a record keeps at most. Of so many documents the one that differs is named, of more
documents the group that it is in."""


class TextHasChanged(InputError):
    """A text is another than when it was read before; `what` says where."""

    def __init__(self, source: str, what: str, *, remedy: str = "train into another --out") -> None:
        super().__init__(f"the text {source} has changed: {what}; bring it back, or {remedy}")
        self.source, self.what = source, what


class TextRecord:
    """Hashes of the documents of a pass, from its beginning to each of many points of it.

    Every document that is read is shown to `see`. Where the same was recorded before and the hash
    is another, `see` raises `TextHasChanged`, which names the document.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._every = 1  # documents from one mark to the next
        self._marks: list[str] = []
        self._end = (0, "")  # the number of documents that were seen last, and their hash
        self._expected = (0, "")
        self._hash = xxhash.xxh3_64()

    def see(self, number: int, document: bytes) -> None:
        """The document with this number in its pass; passes begin with 0."""
        if number == 0:
            self._hash = xxhash.xxh3_64()
        self._hash.update(len(document).to_bytes(8))
        self._hash.update(document)
        n, digest = number + 1, self._hash.hexdigest()
        self._end = (n, digest)
        if n % self._every == 0:
            self._mark(n // self._every - 1, digest)
        if n == self._expected[0] and digest != self._expected[1]:
            raise self.changed(number // self._every * self._every, number)

    def _mark(self, i: int, digest: str) -> None:
        if i == len(self._marks):
            self._marks.append(digest)
        elif i < len(self._marks) and self._marks[i] != digest:
            raise self.changed(i * self._every, (i + 1) * self._every - 1)
        if len(self._marks) > MARKS:
            self._marks, self._every = self._marks[1::2], 2 * self._every

    def changed(self, first: int, last: int) -> TextHasChanged:
        """What to say where one of these documents is another."""
        which = f"document {first}" if first == last else f"one of the documents {first} to {last}"
        return TextHasChanged(self._source, f"{which} is another than when it was read before")

    def state_dict(self, n_marks: int = MARKS) -> dict[str, Any]:
        """A few dozen kilobytes at most, and less with fewer marks."""
        every, marks = self._every, list(self._marks)
        while len(marks) > n_marks:
            every, marks = 2 * every, marks[1::2]
        return {"every": every, "marks": marks, "end": list(self._end)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Expect what was recorded then."""
        self._every, self._marks = state["every"], list(state["marks"])
        n, digest = state["end"]
        self._expected = (n, digest)
