"""What several processes, or one after interruptions, have gathered of a text.

Each process writes a part of its own: some blocks of the text, in any order. What is done is what
any part has, so that a process resumes whatever there is, and all parts are merged in the order of
the text.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash
from jaxtyping import Shaped

from activation_cache.common.errors import InputError
from activation_cache.common.files import replacing
from sae.features.gathered import FILES, STATE, Array, Gathered

MERGED = "merged"
TEXT = ("tokens", "counted")
"""The files that hold what was read."""


def part_of(folder: Path, share: tuple[int, int]) -> Path:
    """Where the process with share (index, of) writes."""
    return folder / f"{share[0]}-of-{share[1]}"


class TextRead:
    """What tells a text from others, whatever the batches in which it was read."""

    def __init__(self) -> None:
        self.n_blocks = self.context_size = 0
        self._hashes = {name: xxhash.xxh3_128() for name in TEXT}

    def add(self, *text: Shaped[np.ndarray, "batch pos"]) -> None:
        """The next blocks: their tokens, and which of these count."""
        n_blocks, n_pos = text[0].shape
        if n_pos != (self.context_size or n_pos):
            raise InputError(
                f"all blocks of a text must have the same length: got {n_pos} tokens after "
                f"{self.context_size}"
            )
        self.n_blocks, self.context_size = self.n_blocks + n_blocks, n_pos
        for name, array in zip(TEXT, text, strict=True):
            self._hashes[name].update(np.ascontiguousarray(array, FILES[name]).data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextRead) and self._identity() == other._identity()

    def _identity(self) -> tuple[object, ...]:
        return (self.n_blocks, self.context_size, *(x.digest() for x in self._hashes.values()))


class Parts:
    """All parts in a folder, as they were last saved. Of a block that several have, one counts."""

    def __init__(self, folder: Path, of: str) -> None:
        """`of` tells the dictionary from others; `InputError` where one was begun with another."""
        self._folder = folder
        found = [Gathered(path) for path in sorted(folder.glob("*-of-*"))]
        self._parts = [part for part in found if part.state["blocks"]]
        if any(part.state["of"] != of for part in self._parts):
            raise InputError(f"{folder} was begun with another dictionary: remove it")
        self._texts = [[part.by_block(name) for name in TEXT] for part in self._parts]
        numbers = [np.empty(0, np.int64), *(part.array("blocks") for part in self._parts)]
        self._blocks, first = np.unique(np.concatenate(numbers), return_index=True)
        begin = np.cumsum([len(its) for its in numbers])  # of each part, in the concatenation
        self._owners = np.searchsorted(begin, first, side="right") - 1
        self._places = first - begin[self._owners]

    def missing(self, first: int, *text: Shaped[np.ndarray, "batch pos"]) -> Array:
        """Which of these blocks, of which `first` is the number of the first one, no part has.

        `InputError` where those that a part has were others.
        """
        end = first + len(text[0])
        done = range(*np.searchsorted(self._blocks, [first, end]))
        for i in done:
            its = self._texts[self._owners[i]]
            block = self._blocks[i] - first
            for held, given in zip(its, text, strict=True):
                if not np.array_equal(held[self._places[i]], given[block]):
                    raise InputError(
                        f"the text is another than when {self._folder} was begun, from block "
                        f"{self._blocks[i]} on: give the same, or remove the folder"
                    )
        return np.setdiff1d(np.arange(first, end), self._blocks[done])

    def merged(self, text: TextRead) -> Gathered:
        """All blocks of the text, in its order; `InputError` where they are not that text's.

        One part that is in order is taken as it is. Others are copied into one, stretch by stretch,
        whatever the memory.
        """
        n_blocks = int(self._blocks[-1]) + 1 if len(self._blocks) else 0
        if n_blocks > text.n_blocks:
            raise InputError(
                f"the text has {text.n_blocks} blocks, and {self._folder} was begun with one of "
                f"{n_blocks} or more: give the same, or remove the folder"
            )
        if len(self._blocks) < text.n_blocks:
            raise InputError(
                f"{self._folder} holds {len(self._blocks)} of the {text.n_blocks} blocks of the "
                f"text: all processes must write into the same folder"
            )
        stretches = list(self._stretches())
        gathered = self._parts[0] if len(stretches) == 1 else self._copied(stretches)
        found = TextRead()
        found.add(*(gathered.by_block(name) for name in TEXT))
        if found != text:
            raise InputError(
                f"the parts in {self._folder} are of different texts: remove it, and give the same "
                f"text to every process"
            )
        return gathered

    def _stretches(self) -> Iterator[tuple[Gathered, int, int]]:
        """Blocks that follow each other in a part as they do in the text."""
        goes_on = (np.diff(self._owners) == 0) & (np.diff(self._places) == 1)
        starts = np.flatnonzero(~np.concatenate([[False], goes_on])) if len(self._places) else []
        for start, end in pairwise([*starts, len(self._places)]):
            first = int(self._places[start])
            yield self._parts[self._owners[start]], first, first + int(end - start)

    def _copied(self, stretches: Sequence[tuple[Gathered, int, int]]) -> Gathered:
        state = {"context_size": stretches[0][0].state["context_size"]}
        with replacing(self._folder / MERGED) as aside:
            aside.mkdir()
            for name, kind in FILES.items():
                with (aside / name).open("wb") as file:
                    for part, first, last in stretches:
                        part.of_blocks(name, first, last).tofile(file)
                    state[name] = file.tell() // np.dtype(kind).itemsize
            (aside / STATE).write_text(json.dumps(state))
        return Gathered(self._folder / MERGED)
