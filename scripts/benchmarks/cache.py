"""Harvesting into a cache against harvesting into nothing; reading one against what a peer does."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from activation_cache import ActivationCache, CacheConfig
from activation_cache.cache.codec import encode, measure_cost
from activation_cache.cache.manifest import FILE, Manifest, ShardEntry, SplitEntry, shard_name
from activation_cache.cache.shard import pack
from activation_cache.cache.storage import Storage
from activation_cache.common.dtypes import DTYPES
from activation_cache.stream.source import ActivationSource, Origins
from benchmarks.harvest import load, site
from benchmarks.measure import BenchFlags, Row, measure

CPU = torch.device("cpu")
READ_ROWS = 524_288
READ_SITE = "blocks.0.hook_resid_pre"
PEER_BUFFER_ROWS = 131_072
PEER_CHUNK_ROWS = 1024


def cache_harvest_rows(flags: BenchFlags) -> Iterator[Row]:
    """cache-harvest: the same text through the same model, written to a cache or dropped.

    Both begin at the head of the text. The ratio is of wall time: writing waits for the disk.
    """
    if flags.only not in (None, "cache-harvest"):
        return
    model = load(flags)
    cfg = CacheConfig(
        hook_names=(site(flags),),
        context_size=flags.context_size,
        forward_tokens=flags.forward_tokens,
        n_tokens=flags.cache_tokens,
        held_out_tokens=0,
        shard_tokens=max(1, flags.cache_tokens // 4),
        codec=flags.dtype,
    )
    source = ActivationSource(model, cfg)

    def into_nothing() -> int:
        blocks = source.token_blocks("train", repeat=False)
        n_rows = 0
        while n_rows < cfg.n_tokens:
            n_rows += len(source.rows(blocks.next_batch())[site(flags)])
        return cfg.n_tokens

    def into_a_cache() -> int:
        folder = tempfile.mkdtemp()
        try:
            return ActivationCache.create(folder, model, cfg).n_rows()
        finally:
            shutil.rmtree(folder)

    measured = measure(into_a_cache, into_nothing, flags.repeats, model.device, wall=True)
    yield measured.row(
        flags,
        name="cache-harvest",
        device=model.device.type,
        d_in=source.widths[site(flags)],
        batch=flags.forward_tokens,
    )


def cache_read_rows(flags: BenchFlags) -> Iterator[Row]:
    """cache-read and peer-mixing-buffer: shuffled batches, against copying as many rows once."""
    rows = torch.randn(_batch_tokens(flags), flags.d_in).to(DTYPES[flags.dtype])
    n_copies = 64

    def copy() -> int:
        for _ in range(n_copies):
            rows.clone()
        return n_copies * len(rows)

    with tempfile.TemporaryDirectory() as folder:
        if flags.only in (None, "cache-read"):
            cache = synthetic_cache(Path(folder), flags)
            stream = cache.batches(_batch_tokens(flags), n_epochs=1_000_000)
            n_batches = max(1, READ_ROWS // _batch_tokens(flags))

            def read() -> int:
                return sum(len(batch[READ_SITE]) for batch in islice(stream, n_batches))

            with stream:
                measured = measure(read, copy, flags.repeats, CPU)
            yield measured.row(
                flags, name="cache-read", device="cpu", d_in=flags.d_in, batch=_batch_tokens(flags)
            )
    if flags.only in (None, "peer-mixing-buffer"):
        batches = peer_mixing_buffer(flags)

        def mix() -> int:
            # One cycle: from one shuffle of the buffer to behind the next.
            return sum(len(next(batches)) for _ in range(PEER_BUFFER_ROWS // 2 // len(rows)))

        measured = measure(mix, copy, min(flags.repeats, 3), CPU)
        yield measured.row(
            flags, name="peer-mixing-buffer", device="cpu", d_in=flags.d_in, batch=len(rows)
        )


def _batch_tokens(flags: BenchFlags) -> int:
    return flags.batch_tokens or 1024


def synthetic_cache(folder: Path, flags: BenchFlags) -> ActivationCache:
    """A cache of random rows, as `ActivationCache.create` would lay it out, without a model."""
    storage = Storage(folder)
    generator = torch.Generator().manual_seed(0)
    shards: list[ShardEntry] = []
    cfg = CacheConfig(hook_names=(READ_SITE,), codec=flags.dtype, n_tokens=READ_ROWS)
    for number in range(READ_ROWS // cfg.shard_tokens):
        rows = torch.randn(cfg.shard_tokens, flags.d_in, generator=generator)
        encoded = encode(rows, cfg.codec, READ_SITE)
        numbers = torch.zeros(len(rows), dtype=torch.int64)
        origins = Origins(numbers, numbers, numbers, numbers == 0)
        data, checksums = pack(origins, {READ_SITE: encoded})
        storage.write(shard_name("train", number), data)
        cost = measure_cost(rows, encoded)
        shards.append(ShardEntry(len(rows), {"document": 0}, checksums, {READ_SITE: cost}))
    manifest = Manifest(
        config=cfg,
        model={"name": "random"},
        tokenizer={},
        versions={},
        widths={READ_SITE: flags.d_in},
    )
    done = SplitEntry(tuple(shards), complete=True)
    manifest = replace(manifest, splits={"held_out": SplitEntry(complete=True), "train": done})
    storage.write(FILE, manifest.to_bytes())
    return ActivationCache.open(folder)


def peer_mixing_buffer(flags: BenchFlags) -> Iterator[Tensor]:
    """The algorithm of SAELens 6's `mixing_buffer`, written again, on rows that cost nothing.

    Every batch of activations that arrives (1,024 rows) is concatenated to the whole buffer; once
    that has its full size (131,072 rows) all of it is shuffled, and half is served.
    """
    arriving = torch.randn(PEER_CHUNK_ROWS, flags.d_in).to(DTYPES[flags.dtype])
    buffer = arriving
    while True:
        buffer = torch.cat([buffer, arriving])
        if len(buffer) < PEER_BUFFER_ROWS:
            continue
        buffer = buffer[torch.randperm(len(buffer))]
        n_served = (
            (len(buffer) - PEER_BUFFER_ROWS // 2) // _batch_tokens(flags) * _batch_tokens(flags)
        )
        yield from buffer[:n_served].split(_batch_tokens(flags))
        buffer = buffer[n_served:]
