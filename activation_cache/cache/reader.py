"""Read a cache in a shuffled order that is drawn from a seed, or as a Hugging Face dataset."""
# Shapes: rows of a window x width of a site.

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from activation_cache.cache.codec import decode_into
from activation_cache.cache.manifest import Manifest, read_manifest
from activation_cache.cache.shard import Shard, open_shard, version_of
from activation_cache.cache.storage import Storage
from activation_cache.stream.shuffle import Rows
from activation_cache.text.config import Split

if TYPE_CHECKING:
    import datasets

CHUNK_ROWS = 256
"""Neighbouring rows that are read together: two contexts, 400 kB of GPT-2 small in bfloat16."""
POOL_SHARDS = 16
"""Shards whose chunks are mixed with each other."""


class Chunk(NamedTuple):
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
    a reader of the same cache with the same settings continues exactly after it.
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
        n_rows = order.window_rows
        self._memory = {site: torch.empty(n_rows, w, dtype=dtype) for site, w in widths.items()}
        self.load_state_dict({"n_served": 0})

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
        parts: list[Rows] = []
        while n_rows:
            if not len(self._rows_ahead):
                self._rows_ahead = next(self._reading)
            rows, self._rows_ahead = self._rows_ahead.tensor_split([n_rows])
            parts.append({site: held.index_select(0, rows) for site, held in self._memory.items()})
            n_rows -= len(rows)
        return parts

    def _windows_from(self, n_served: int) -> Iterator[Tensor]:
        """Load window after window, epoch after epoch, after the rows that were served."""
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
        self._reading = self._windows_from(self._n_served)
        self._rows_ahead = torch.empty(0, dtype=torch.int64)  # of the window, in serving order


def dataset_of(storage: Storage, manifest: Manifest, site: str, split: Split) -> "datasets.Dataset":
    """The rows of one site in the order of the text; see `ActivationCache.to_dataset`."""
    import datasets

    numbers = dict.fromkeys(("token_id", "position", "document"), datasets.Value("int32"))
    activation = datasets.List(datasets.Value("float32"), length=manifest.widths[site])
    made = datasets.Dataset.from_generator(
        _rows,
        features=datasets.Features({"activation": activation, **numbers}),
        gen_kwargs={
            "folder": storage.url,
            "read_cache": storage.read_cache,
            "site": site,
            "split": split,
            "versions": tuple(map(version_of, manifest.splits[split].shards)),
        },
    )
    assert isinstance(made, datasets.Dataset)
    return made


def _rows(
    folder: str, read_cache: Path | None, site: str, split: Split, versions: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """The rows one by one; `versions` tells `datasets` one content of a folder from another."""
    storage = Storage(folder, read_cache=read_cache)
    manifest = read_manifest(storage)
    for number in range(len(versions)):
        shard = open_shard(storage, manifest, split, number)
        rows = torch.empty(shard.entry.n_rows, manifest.widths[site])
        decode_into(rows, shard.encoded(site), 0)
        numbers = (its.tolist() for its in shard.origins()[:3])
        for row in zip(rows.numpy(), *numbers, strict=True):
            yield dict(zip(("activation", "token_id", "position", "document"), row, strict=True))
