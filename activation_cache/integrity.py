"""Find what is damaged in a cache, and harvest it again."""

from dataclasses import dataclass, replace

from activation_cache.errors import InputError
from activation_cache.manifest import (
    FILE,
    SHARD_NAME,
    SPLITS,
    Manifest,
    read_manifest,
    shard_name,
)
from activation_cache.shard import DamagedShard, Shard, version_of
from activation_cache.source import ActivationSource
from activation_cache.storage import LOCK_FILE, TEMPORARY, Storage
from activation_cache.text import Split
from activation_cache.writer import OnProgress, harvest_shard, plan_shards


@dataclass(frozen=True)
class Damage:
    """Something in a cache that is not as it was written."""

    file: str
    message: str
    shard: tuple[Split, int] | None = None
    """Which shard has to be harvested again, where that can help."""


def open_shard(storage: Storage, manifest: Manifest, split: Split, number: int) -> Shard:
    """A shard, its header checked; `DamagedShard` where it is missing or not what was written."""
    entry = manifest.splits[split].shards[number]
    name = shard_name(split, number)
    try:
        path = storage.local_file(name, version_of(entry))
    except FileNotFoundError as error:
        raise DamagedShard(f"{name} of {storage.url} is missing") from error
    return Shard(path, f"{name} of {storage.url}", entry)


def find_damage(storage: Storage, manifest: Manifest) -> list[Damage]:
    """Everything that is not as it was written, down to a flipped bit."""
    found: list[Damage] = []
    try:
        if read_manifest(storage) != manifest:
            found.append(Damage(FILE, f"the {FILE} of {storage.url} is not what was opened"))
    except InputError as error:
        found.append(Damage(FILE, str(error)))
    expected = {FILE, LOCK_FILE}
    for split in SPLITS:
        for number in range(len(manifest.splits[split].shards)):
            name = shard_name(split, number)
            expected.add(name)
            try:
                open_shard(storage, manifest, split, number).check()
            except DamagedShard as error:
                found.append(Damage(name, str(error), (split, number)))
    for name in storage.names():
        if name not in expected and not name.endswith(TEMPORARY) and not _is_ahead(name, manifest):
            message = f"{name} does not belong to the cache {storage.url}: delete it"
            found.append(Damage(name, message))
    return found


def _is_ahead(name: str, manifest: Manifest) -> bool:
    """Whether this is a shard that a harvest had written before its manifest named it."""
    match = SHARD_NAME.fullmatch(name)
    return match is not None and not manifest.splits[match[1]].complete


def harvest_again(
    storage: Storage,
    source: ActivationSource,
    manifest: Manifest,
    split: Split,
    number: int,
    tell: OnProgress,
) -> Manifest:
    """Replace one shard by what its place in the text gives now; the manifest that names it."""
    entry = manifest.splits[split]
    shards = entry.shards
    before = replace(entry, shards=shards[:number], cursor=shards[number].cursor)
    plan = next(plan_shards(source, manifest.config, split, before), None)
    if plan is None or plan.n_rows != shards[number].n_rows:
        raise InputError(
            f"{shard_name(split, number)} cannot be harvested again: the text of "
            f"{manifest.config.dataset} is no longer what it was"
        )
    harvested = harvest_shard(storage, source, manifest.config, plan, tell)
    shards = (*shards[:number], harvested.entry, *shards[number + 1 :])
    repaired = manifest.with_split(split, replace(entry, shards=shards))
    if repaired != manifest:
        storage.write(FILE, repaired.to_bytes())
    return repaired
