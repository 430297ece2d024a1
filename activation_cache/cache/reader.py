"""Read a cache in a shuffled order that is drawn from a seed, a window at a time."""
# Shapes: rows of a window x width of a site.

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from activation_cache.cache.codec import decode_into
from activation_cache.cache.shard import Shard
from activation_cache.stream.shuffle import Rows

CHUNK_ROWS = 256
"""Neighbouring rows that are read together: two contexts, 400 kB of GPT-2 small in bfloat16."""
POOL_SHARDS = 16
"""Shards whose chunks are mixed with each other."""


@dataclass(frozen=True)
class Chunk:
    shard: int
    start: int
    n_rows: int


@dataclass(frozen=True)
class ReadingOrder:
    """In which order the rows of one split are served; a pure function of its fields and the epoch.

    Shuffled: the shards are put in a random order and pooled, 16 at a time; the chunks of a pool,
    256 neighbouring rows each, are put in a random order and read into windows of `window_rows`;
    the rows of a window are put in a random order. So a window holds pieces from all over its pool,
    and every row comes exactly once in each epoch.
    """

    shard_rows: tuple[int, ...]
    window_rows: int
    seed: int
    shuffle: bool

    def windows(self, epoch: int) -> Iterator[list[Chunk]]:
        shards = self._permuted(list(range(len(self.shard_rows))), epoch, "shards")
        for first in range(0, len(shards), POOL_SHARDS):
            pool = shards[first : first + POOL_SHARDS]
            chunks = [chunk for shard in pool for chunk in self._chunks(shard)]
            window: list[Chunk] = []
            held = 0
            for chunk in self._permuted(chunks, epoch, f"chunks {first}"):
                if held + chunk.n_rows > self.window_rows and window:
                    yield window
                    window, held = [], 0
                window.append(chunk)
                held += chunk.n_rows
            yield window

    def rows(self, epoch: int, window: int, n_rows: int) -> Tensor:
        """The order in which the rows of a window are served."""
        if not self.shuffle:
            return torch.arange(n_rows)
        return torch.randperm(n_rows, generator=self._generator(epoch, f"rows {window}"))

    def _chunks(self, shard: int) -> Iterator[Chunk]:
        n_rows = self.shard_rows[shard]
        size = min(CHUNK_ROWS, self.window_rows)
        for start in range(0, n_rows, size):
            yield Chunk(shard, start, min(size, n_rows - start))

    def _permuted(self, items: list[Any], epoch: int, what: str) -> list[Any]:
        if not self.shuffle:
            return items
        order = torch.randperm(len(items), generator=self._generator(epoch, what))
        return [items[i] for i in order.tolist()]

    def _generator(self, epoch: int, what: str) -> torch.Generator:
        key = hashlib.blake2b(f"{self.seed} {epoch} {what}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(key) >> 1)


class CacheReader:
    """An iterator of batches {hook name: [batch_tokens, width]}; the last one may be shorter.

    Holds one window of rows in memory, allocated once. `state_dict` is a count of the rows served:
    a reader of the same cache with the same settings goes on exactly behind it.
    """

    def __init__(
        self,
        order: ReadingOrder,
        open_shard: Callable[[int], Shard],
        widths: dict[str, int],
        dtype: torch.dtype,
        *,
        batch_tokens: int,
        n_tokens: int,
    ) -> None:
        self._order = order
        self._open_shard = open_shard
        self._batch_tokens = batch_tokens
        self._n_tokens = n_tokens
        largest = max(order.window_rows, 1)
        self._memory = {site: torch.empty(largest, w, dtype=dtype) for site, w in widths.items()}
        self._n_served = 0
        self._reading: Iterator[Tensor] | None = None
        self._rows_ahead = torch.empty(0, dtype=torch.int64)  # of the window, in serving order

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        n_rows = min(self._batch_tokens, self._n_tokens - self._n_served)
        if n_rows <= 0:
            raise StopIteration
        try:
            parts = self._take(n_rows)
        except BaseException:
            self.load_state_dict(self.state_dict())  # nothing of this batch was served
            raise
        self._n_served += n_rows
        if len(parts) == 1:
            return parts[0]
        return {site: torch.cat([part[site] for part in parts]) for site in self._memory}

    def _take(self, n_rows: int) -> list[Rows]:
        """The next rows, in a part for each window that they are from."""
        if self._reading is None:
            self._reading = self._windows_from(self._n_served)
        parts: list[Rows] = []
        while n_rows:
            if not len(self._rows_ahead):
                self._rows_ahead = next(self._reading)
            rows, self._rows_ahead = self._rows_ahead.tensor_split([n_rows])
            parts.append({site: held.index_select(0, rows) for site, held in self._memory.items()})
            n_rows -= len(rows)
        return parts

    def _windows_from(self, n_served: int) -> Iterator[Tensor]:
        """Load window after window, epoch after epoch, from behind the rows that were served."""
        epoch, skip = divmod(n_served, sum(self._order.shard_rows))
        while True:
            for number, window in enumerate(self._order.windows(epoch)):
                n_rows = sum(chunk.n_rows for chunk in window)
                if skip >= n_rows:
                    skip -= n_rows
                    continue
                self._load(window)
                yield self._order.rows(epoch, number, n_rows)[skip:]
                skip = 0
            epoch += 1

    def _load(self, window: list[Chunk]) -> None:
        start = 0
        for chunk in window:
            shard = self._open_shard(chunk.shard)
            for site, held in self._memory.items():
                into = held[start : start + chunk.n_rows]
                decode_into(into, shard.encoded(site), chunk.start)
            start += chunk.n_rows

    def state_dict(self) -> dict[str, int]:
        return {"n_served": self._n_served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._n_served = state["n_served"]
        self._reading = None
        self._rows_ahead = torch.empty(0, dtype=torch.int64)
