"""Find what is damaged in a cache, and harvest it again."""

from dataclasses import dataclass, replace

from activation_cache.cache.manifest import (
    FILE,
    SHARD_NAME,
    SPLITS,
    Manifest,
    read_manifest,
    shard_name,
)
from activation_cache.cache.shard import DamagedShard, Shard, version_of
from activation_cache.cache.storage import Storage
from activation_cache.cache.writer import OnProgress, Progress, harvest_shard, plan_shards
from activation_cache.common.errors import InputError
from activation_cache.common.files import TEMPORARY
from activation_cache.common.lock import LOCK_FILE
from activation_cache.stream.source import ActivationSource, Origins
from activation_cache.text.blocks import TextHasChanged
from activation_cache.text.documents import Split


@dataclass(frozen=True)
class Damage:
    """Something in a cache that is not as it was written."""

    file: str
    message: str
    shard: tuple[Split, int] | None = None
    """Which shard has to be harvested again, where that can help."""


def open_shard(
    storage: Storage, manifest: Manifest, split: Split, number: int, *, afresh: bool = False
) -> Shard:
    """A shard, its header checked; `DamagedShard` where it is missing or not what was written.

    A local copy of a remote shard is checked whole, and made anew if it is damaged or `afresh`.
    """
    entry = manifest.splits[split].shards[number]
    name = shard_name(split, number)
    try:
        path = storage.local_file(name, version_of(entry), afresh=afresh)
    except FileNotFoundError as error:
        raise DamagedShard(f"{name} of {storage.url} is missing") from error
    try:
        shard = Shard(path, f"{name} of {storage.url}", entry, manifest.widths)
        if not storage.is_local:
            shard.check()
    except DamagedShard:
        if storage.is_local or afresh:
            raise
        return open_shard(storage, manifest, split, number, afresh=True)
    return shard


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
                open_shard(storage, manifest, split, number, afresh=True).check()
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
    name = shard_name(split, number)
    text_has_changed = InputError(
        f"{name} cannot be harvested again: the text of {manifest.config.dataset} is no longer "
        f"what it was"
    )
    try:
        plan = next(plan_shards(source, manifest.config, split, before), None)
    except TextHasChanged as error:
        raise text_has_changed from error
    if plan is None:
        raise text_has_changed
    data, harvested = harvest_shard(source, manifest.config, plan, tell)
    was, now = shards[number].checksums, harvested.entry.checksums
    if any(was[origin] != now[origin] for origin in Origins._fields):
        raise text_has_changed
    storage.write(name, data)
    tell(Progress(split, n_bytes=len(data)))
    shards = (*shards[:number], harvested.entry, *shards[number + 1 :])
    repaired = manifest.with_split(split, replace(entry, shards=shards))
    if repaired != manifest:
        storage.write(FILE, repaired.to_bytes())
    return repaired
