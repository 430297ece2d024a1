"""Harvest activations into the shards of a cache, alone or with other ranks under torchrun."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from activation_cache.cache.codec import encode, measure_cost
from activation_cache.cache.manifest import (
    FILE,
    SPLITS,
    CacheConfig,
    Manifest,
    ShardEntry,
    SplitEntry,
    read_manifest,
    shard_name,
)
from activation_cache.cache.shard import pack
from activation_cache.cache.statistics import ActivationStatistics
from activation_cache.cache.storage import Storage
from activation_cache.common.errors import InputError
from activation_cache.common.ranks import all_gather, rank_and_world
from activation_cache.common.versions import library_versions
from activation_cache.stream.shuffle import Rows
from activation_cache.stream.source import ActivationSource, Origins
from activation_cache.text.blocks import TextHasChanged, TokenBatch
from activation_cache.text.config import Split


@dataclass(frozen=True)
class Progress:
    """What has just been done: rows that went through the model, or bytes that were written.

    A harvest that is resumed begins with the rows that are there.
    """

    split: Split
    n_rows: int = 0
    n_bytes: int = 0


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class ShardPlan:
    """The token batches of a shard: what it will hold is decided before any forward pass."""

    split: Split
    number: int
    batches: tuple[TokenBatch, ...]
    n_rows: int
    cursor: dict[str, int]
    """Of the token blocks, before the shard."""
    cursor_after: dict[str, int]
    text_after: dict[str, Any]
    """The record of the documents that were read so far."""


HarvestedShard = tuple[ShardEntry, dict[str, dict[str, Any]]]
"""What the manifest records of a shard, and the statistics of its rows by site."""


def plan_shards(
    source: ActivationSource, cfg: CacheConfig, split: Split, done: SplitEntry
) -> Iterator[ShardPlan]:
    """The shards of a split after those that are done, until there are enough rows or no text."""
    blocks = source.token_blocks(split, repeat=False)
    if done.text is not None:
        blocks.record.load_state_dict(done.text)
    if done.cursor is not None:
        blocks.load_state_dict(done.cursor)
    number, n_rows = len(done.shards), done.n_rows
    while (missing := cfg.wanted(split) - n_rows) > 0:
        cursor = blocks.state_dict()
        batches: list[TokenBatch] = []
        held = 0
        for batch in iter(blocks.next_batch, None):
            batches.append(batch)
            held += int(source.counted(batch.tokens).sum())
            if held >= min(cfg.shard_tokens, missing):
                break
        if not held:
            return
        held = min(held, missing)
        after = blocks.state_dict(), blocks.record.state_dict()
        yield ShardPlan(split, number, tuple(batches), held, cursor, *after)
        number, n_rows = number + 1, n_rows + held


def harvest_shard(
    source: ActivationSource, cfg: CacheConfig, plan: ShardPlan, on_progress: OnProgress
) -> tuple[bytes, HarvestedShard]:
    """Run the model over the text of a shard: its file, and what the manifest records of it."""
    rows, origins = _forward(source, plan, on_progress)
    encoded = {site: encode(x, cfg.codec, site) for site, x in rows.items()}
    data, checksums = pack(origins, encoded)
    costs = {site: measure_cost(x, encoded[site]) for site, x in rows.items()}
    statistics = {}
    for site, x in rows.items():
        of_site = ActivationStatistics(x.shape[1])
        of_site.update(x)
        statistics[site] = of_site.to_dict()
    return data, (ShardEntry(plan.n_rows, plan.cursor, checksums, costs), statistics)


def _forward(
    source: ActivationSource, plan: ShardPlan, on_progress: OnProgress
) -> tuple[Rows, Origins]:
    chunks: list[Rows] = []
    held = 0
    for batch in plan.batches:
        chunks.append({site: x.cpu() for site, x in source.rows(batch).items()})
        n_rows = min(len(next(iter(chunks[-1].values()))), plan.n_rows - held)
        held += n_rows
        on_progress(Progress(plan.split, n_rows=n_rows))
    rows = {
        site: torch.cat([chunk[site] for chunk in chunks])[: plan.n_rows] for site in source.widths
    }
    origins = [source.origins(batch) for batch in plan.batches]
    return rows, Origins(*(torch.cat(part)[: plan.n_rows] for part in zip(*origins, strict=True)))


def fill(
    storage: Storage, source: ActivationSource, manifest: Manifest, on_progress: OnProgress
) -> Manifest:
    """Harvest the shards that are missing after those that are there.

    Under torch.distributed every rank plans all shards, which takes tokenising alone, and harvests
    each world-size-th of them: the shards are those that one process would have written.
    """
    rank, world = rank_and_world()
    is_begun = storage.exists(FILE)
    for split in SPLITS:
        plans = plan_shards(source, manifest.config, split, manifest.splits[split])
        if manifest.splits[split].n_rows:
            on_progress(Progress(split, n_rows=manifest.splits[split].n_rows))
        while not manifest.splits[split].complete:
            round_ = list(islice(plans, world))
            if rank == 0 and round_ and not is_begun:  # not before it is known that there is text
                storage.write(FILE, manifest.to_bytes())
            is_begun = is_begun or bool(round_)
            harvested = None
            for mine in round_[rank : rank + 1]:
                data, harvested = harvest_shard(source, manifest.config, mine, on_progress)
                storage.write(shard_name(split, mine.number), data)  # no manifest names it yet
                on_progress(Progress(split, n_bytes=len(data)))
            for plan, shard in zip(round_, all_gather(harvested), strict=False):
                assert shard is not None
                manifest = _with_shard(manifest, plan, *shard)
            if len(round_) < world or (
                manifest.splits[split].n_rows == manifest.config.wanted(split)
            ):
                done = replace(manifest.splits[split], complete=True)
                manifest = manifest.with_split(split, done)
            if rank == 0 and is_begun:
                storage.write(FILE, manifest.to_bytes())
    return manifest


def _with_shard(
    manifest: Manifest,
    plan: ShardPlan,
    entry: ShardEntry,
    its_statistics: dict[str, dict[str, Any]],
) -> Manifest:
    """The manifest with one more shard; its statistics are those of the training split.

    They go through their plain form every time, so that a harvest that was interrupted ends with
    the same bits as one that was not.
    """
    split = manifest.splits[plan.split]
    split = replace(
        split, shards=(*split.shards, entry), cursor=plan.cursor_after, text=plan.text_after
    )
    manifest = manifest.with_split(plan.split, split)
    if plan.split != "train":
        return manifest
    statistics = {}
    for site, of_shard in its_statistics.items():
        so_far = ActivationStatistics.from_dict(manifest.statistics.get(site, of_shard))
        if site in manifest.statistics:
            so_far.merge(ActivationStatistics.from_dict(of_shard))
        statistics[site] = so_far.to_dict()
    return replace(manifest, statistics=statistics)


def found_or_new(storage: Storage, source: ActivationSource, cfg: CacheConfig) -> Manifest:
    wanted = Manifest(
        config=cfg,
        model=source.model.description,
        tokenizer=source.model.tokenizer_description,
        versions=library_versions(),
        widths=source.widths,
    )
    if not storage.exists(FILE):
        return wanted
    found = read_manifest(storage)
    found.refuse_other(storage.url, wanted)
    return found


def harvest_again(
    storage: Storage,
    source: ActivationSource,
    manifest: Manifest,
    split: Split,
    number: int,
    on_progress: OnProgress,
) -> Manifest:
    """Replace one shard by what its place in the text gives now; the manifest that names it."""
    entry, name = manifest.splits[split], shard_name(split, number)
    shard = entry.shards[number]
    before = replace(entry, shards=entry.shards[:number], cursor=shard.cursor)
    try:
        plan = next(plan_shards(source, manifest.config, split, before))
        data, (harvested, _) = harvest_shard(source, manifest.config, plan, on_progress)
        if any(shard.checksums[part] != harvested.checksums[part] for part in Origins._fields):
            raise TextHasChanged(manifest.config.source, "its tokens are others")
    except (TextHasChanged, StopIteration) as error:
        raise InputError(
            f"{name} cannot be harvested again: the text of {manifest.config.source} is no longer "
            f"what it was"
        ) from error
    storage.write(name, data)
    on_progress(Progress(split, n_bytes=len(data)))
    shards = (*entry.shards[:number], harvested, *entry.shards[number + 1 :])
    repaired = manifest.with_split(split, replace(entry, shards=shards))
    if repaired != manifest:
        storage.write(FILE, repaired.to_bytes())
    return repaired
