"""The active features of every token, on disk: written batch by batch, read back in parts.

Tokens lie in the order of the text, blocks of the same length one after another; a position is the
number of a token in it. What is on disk does not depend on how the text was cut into batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.files import write_json
from activation_cache.common.schema import parse_json
from sae.codes import Codes

STATE = "state.json"
FILES = {"tokens": "<i4", "counted": "u1", "counts": "<i4", "indices": "<i4", "values": "<f4"}
"""Per token, all but the last two, which are per active feature."""

SAVED_EVERY = 16
"""Batches after which what was gathered is kept, should the collecting be interrupted."""

ENTRIES_AT_ONCE = 2**22
"""Active features that are read at a time: 32 MB of them."""

Array = Shaped[np.ndarray, "..."]


@dataclass(frozen=True)
class Gathered:
    """Tokens, and the active features of each, of the text so far."""

    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        """How much of each file holds, in numbers; more may have been written after it."""
        path = self.folder / STATE
        if not path.exists():
            return dict.fromkeys((*FILES, "blocks", "context_size"), 0)
        return parse_json(path.read_bytes(), str(path))

    def array(self, name: str) -> Array:
        """What one of the files holds, mapped."""
        n = self.state[name]
        if not n:
            return np.empty(0, FILES[name])
        mapped = np.memmap(self.folder / name, FILES[name], "r", shape=(n,))
        return mapped.view(np.ndarray)  # every part of a memmap would be one, which takes time

    @cached_property
    def offsets(self) -> Array:
        """Where the entries of each token begin, and where those of the last one end."""
        return np.concatenate([[0], np.cumsum(self.array("counts"), dtype=np.int64)])

    def chunks(self) -> Iterator[tuple[Array, Array, Array]]:
        """Positions, features and values of all entries, in the order of the text."""
        offsets, indices, values = self.offsets, self.array("indices"), self.array("values")
        start = 0
        while start < len(offsets) - 1:
            end = int(np.searchsorted(offsets, offsets[start] + ENTRIES_AT_ONCE, side="right")) - 1
            end = max(end, start + 1)
            entries = slice(offsets[start], offsets[end])
            positions = np.repeat(np.arange(start, end), np.diff(offsets[start : end + 1]))
            yield positions, indices[entries], values[entries]
            start = end


class Gatherer:
    """Appends to the files of `Gathered`, and resumes where an earlier one was interrupted."""

    def __init__(self, folder: Path, of: str) -> None:
        """`of` tells the dictionary from others; `InputError` where it was begun with another."""
        folder.mkdir(parents=True, exist_ok=True)
        self.gathered = Gathered(folder)
        self._state = self.gathered.state
        if self._state.setdefault("of", of) != of:
            raise InputError(f"{folder} was begun with another dictionary: remove it")
        self._n_batches = 0
        for name, kind in FILES.items():  # what was written after the last state is dropped
            with (folder / name).open("ab") as file:
                file.truncate(self._state[name] * np.dtype(kind).itemsize)

    @property
    def n_blocks(self) -> int:
        """Blocks of the text that are done."""
        return self._state["blocks"]

    def has(self, tokens: Int[Tensor, "batch pos"], first: int) -> bool:
        """Whether these blocks, from number `first` on, are done.

        `InputError` where those that are done were others, or the text was cut into other batches.
        """
        n_pos = self._state["context_size"]
        if first >= self.n_blocks:
            return False
        done = self.gathered.array("tokens").reshape(-1, n_pos)[first : first + len(tokens)]
        if not np.array_equal(done, tokens.cpu().numpy()):
            raise InputError(
                f"the text is another than when {self.gathered.folder} was begun, or in batches of "
                f"another size, from block {first} on: give the same, or remove the folder"
            )
        return True

    def append(
        self,
        tokens: Int[Tensor, "batch pos"],
        counted: Bool[Tensor, "batch pos"],
        codes: Codes,
    ) -> None:
        """The next blocks of the text, with the active features of each counted token."""
        n_pos = self._state["context_size"] or tokens.shape[1]
        if tokens.shape[1] != n_pos:
            raise InputError(
                f"all blocks of a text must have the same length: got {tokens.shape[1]} tokens "
                f"after {n_pos}"
            )
        codes = codes.sorted()  # a selection may leave them in any order
        is_active = codes.values != 0
        counts = np.zeros(tokens.shape, "<i4")
        counts[counted.cpu().numpy()] = is_active.sum(dim=-1).cpu().numpy()
        arrays = {
            "tokens": tokens,
            "counted": counted,
            "indices": codes.indices[is_active],
            "values": codes.values[is_active],
        }
        written = {name: x.cpu().numpy() for name, x in arrays.items()} | {"counts": counts}
        for name, array in written.items():
            with (self.gathered.folder / name).open("ab") as file:
                file.write(np.ascontiguousarray(array, FILES[name]).tobytes())
            self._state[name] += array.size
        self._state |= {"context_size": n_pos, "blocks": self.n_blocks + len(tokens)}
        self._n_batches += 1
        if self._n_batches % SAVED_EVERY == 0:
            self.save()

    def end(self, n_blocks: int) -> None:
        """The text has ended after so many blocks; `InputError` where more of it are done."""
        if n_blocks < self.n_blocks:
            raise InputError(
                f"the text has {n_blocks} blocks, and {self.gathered.folder} was begun with one of "
                f"{self.n_blocks} or more: give the same, or remove the folder"
            )
        self.save()

    def save(self) -> None:
        """What was appended until now is kept, whatever happens."""
        write_json(self.gathered.folder / STATE, self._state)
