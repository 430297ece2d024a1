"""The active features of every token, on disk: written batch by batch, read back in parts.

A folder holds blocks of a text, of the same length, in the order in which they were appended; of
each, its number in the text. A position is the number of a token in the folder.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.files import write_file
from activation_cache.common.finite import all_finite
from activation_cache.common.schema import parse_json
from sae.codes import Codes

STATE = "state.json"
OF_BLOCKS = {"blocks": "<i8"}
OF_TOKENS = {"tokens": "<i4", "counted": "u1", "counts": "<i4"}
OF_ENTRIES = {"indices": "<i4", "values": "<f4"}
FILES = OF_BLOCKS | OF_TOKENS | OF_ENTRIES
"""Blocks have a number each; tokens an id, whether they count, and how many features are active."""

SAVED_EVERY = 16
"""Batches after which what was gathered is kept, should the collecting be interrupted."""

ENTRIES_AT_ONCE = 2**21
"""Active features that are looked at at a time; they take about 200 MB while they are."""

Array = Shaped[np.ndarray, "..."]


@dataclass(frozen=True)
class Gathered:
    """Blocks of a text and the active features of each token, as they were last saved."""

    folder: Path

    @cached_property
    def state(self) -> dict[str, Any]:
        """How much of each file holds, in numbers; more may have been written after it."""
        path = self.folder / STATE
        if not path.exists():
            return dict.fromkeys((*FILES, "context_size"), 0)
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

    def by_block(self, name: str) -> Shaped[np.ndarray, "blocks pos"]:
        return self.array(name).reshape(-1, self.state["context_size"])

    def of_blocks(self, name: str, first: int, last: int) -> Array:
        """What one of the files holds of some blocks that lie there one after another."""
        ends = np.array([first, last])
        if name not in OF_BLOCKS:
            ends *= self.state["context_size"]
        if name in OF_ENTRIES:
            ends = self.offsets[ends]
        return self.array(name)[slice(*ends)]

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
        self._folder, self._state, self._n_batches = folder, Gathered(folder).state, 0
        if self._state.setdefault("of", of) != of:
            raise InputError(f"{folder} was begun with another dictionary: remove it")
        for name, kind in FILES.items():  # what was written after the last state is dropped
            with (folder / name).open("ab") as file:
                file.truncate(self._state[name] * np.dtype(kind).itemsize)

    def append(
        self,
        blocks: Int[np.ndarray, " batch"],
        tokens: Int[Tensor, "batch pos"],
        counted: Bool[Tensor, "batch pos"],
        codes: Codes,
    ) -> None:
        """More blocks, their numbers in the text, and the active features of counted tokens."""
        if not all_finite([codes.values]):
            raise InputError(
                f"features are NaN or infinite in blocks {blocks[0]} to {blocks[-1]} of the text: "
                f"run the model in another --dtype, or check the dictionary"
            )
        codes = codes.sorted()  # a selection may leave them in any order
        is_active = codes.values != 0
        counts = np.zeros(tokens.shape, "<i4")
        counts[counted.cpu().numpy()] = is_active.sum(dim=-1).cpu().numpy()
        arrays = {
            "blocks": blocks,
            "tokens": tokens.cpu().numpy(),
            "counted": counted.cpu().numpy(),
            "counts": counts,
            "indices": codes.indices[is_active].cpu().numpy(),
            "values": codes.values[is_active].cpu().numpy(),
        }
        for name, array in arrays.items():
            with (self._folder / name).open("ab") as file:
                np.ascontiguousarray(array, FILES[name]).tofile(file)
            self._state[name] += array.size
        self._state["context_size"] = tokens.shape[1]
        self._n_batches += 1
        if self._n_batches % SAVED_EVERY == 0:
            self.save()

    def save(self) -> None:
        """What was appended until now is kept, whatever happens."""
        write_file(self._folder / STATE, json.dumps(self._state))
