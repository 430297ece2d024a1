"""Shards: safetensors files whose every byte is covered by a checksum; what is damaged in them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from activation_cache.cache.codec import Encoded
from activation_cache.cache.manifest import (
    FILE,
    SHARD_NAME,
    Manifest,
    ShardEntry,
    read_manifest,
    shard_name,
)
from activation_cache.cache.storage import Storage
from activation_cache.common.errors import InputError
from activation_cache.common.files import TEMPORARY
from activation_cache.common.lock import LOCK_FILE
from activation_cache.stream.source import Origins
from activation_cache.text.config import Split

HEADER = "header"
"""What the checksum of everything before the tensors of a shard is listed as."""

LONG_CONTEXT = 2**15
"""From here on positions do not fit into int16."""


class DamagedShard(InputError):
    """A shard is not what was written."""


def pack(origins: Origins, encoded: dict[str, Encoded]) -> tuple[bytes, dict[str, str]]:
    """A shard as it is written, the same bytes for the same rows, and its checksums by part."""
    is_long = bool((origins.positions >= LONG_CONTEXT).any())
    tensors = {
        "token_ids": origins.token_ids.to(torch.int32),
        "positions": origins.positions.to(torch.int32 if is_long else torch.int16),
        "documents": origins.documents.to(torch.int32),
        "opens_block": origins.opens_block,
    }
    for site, its in encoded.items():
        tensors |= {f"{site}.{part}".removesuffix(".values"): x.cpu() for part, x in its.items()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    data = to_safetensors(tensors)
    checksums = {name: _checksum(tensor) for name, tensor in tensors.items()}
    checksums[HEADER] = xxhash.xxh3_128_hexdigest(data[: _header_size(data[:8])])
    return data, checksums


def version_of(entry: ShardEntry) -> str:
    """A name for the content of a shard."""
    return xxhash.xxh3_128_hexdigest(json.dumps(entry.checksums, sort_keys=True).encode())


@dataclass
class Shard:
    """The memory-mapped tensors of a shard, each checked before it is first handed out."""

    path: Path
    name: str
    """What messages call it."""
    entry: ShardEntry

    def __post_init__(self) -> None:
        self._checked: dict[str, Tensor] = {}
        try:
            if not self.path.is_file():  # reading a pipe would never end
                raise DamagedShard(f"{self.name} is missing")
            if self._header_checksum() != self.entry.checksums[HEADER]:
                raise DamagedShard(f"{self.name} is damaged: its header is not what was written")
            self._file: Any = safe_open(self.path, framework="pt").__enter__()
        except (OSError, SafetensorError) as error:
            raise DamagedShard(f"{self.name} is damaged ({error})") from error

    def _header_checksum(self) -> str:
        with self.path.open("rb") as file:
            size = min(_header_size(file.read(8)), self.path.stat().st_size)
            file.seek(0)
            return xxhash.xxh3_128_hexdigest(file.read(size))

    def tensor(self, name: str) -> Tensor:
        if name not in self._checked:
            tensor = self._file.get_tensor(name)
            if _checksum(tensor) != self.entry.checksums[name]:
                raise DamagedShard(f"{self.name} is damaged: {name} is not what was written")
            self._checked[name] = tensor
        return self._checked[name]

    def encoded(self, site: str) -> Encoded:
        """The rows of a site, not decoded."""
        names = (name for name in self.entry.checksums if f"{name}.".startswith(f"{site}."))
        return {name[len(site) + 1 :] or "values": self.tensor(name) for name in names}

    def origins(self) -> Origins:
        *numbers, opens_block = map(self.tensor, Origins._fields)
        return Origins(*(its.to(torch.int64) for its in numbers), opens_block=opens_block)

    def check(self) -> None:
        """Raise `DamagedShard` if a single bit is not as it was written."""
        for name in self.entry.checksums:
            if name != HEADER:
                self.tensor(name)


def _checksum(tensor: Tensor) -> str:
    data: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return xxhash.xxh3_128_hexdigest(data)


def _header_size(head: bytes) -> int:
    """Bytes before the tensors, by the length that a safetensors file begins with."""
    return 8 + int.from_bytes(head[:8], "little")


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

    A local copy of a remote shard is checked whole, and made again if it is damaged or `afresh`.
    """
    entry = manifest.splits[split].shards[number]
    name = shard_name(split, number)
    called = f"{name} of {storage.url}"
    try:
        shard = Shard(storage.local_file(name, version_of(entry), afresh=afresh), called, entry)
        if not storage.is_local:
            shard.check()
    except FileNotFoundError as error:
        raise DamagedShard(f"{called} is missing") from error
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
    for split, number in manifest.shards():
        name = shard_name(split, number)
        expected.add(name)
        try:
            open_shard(storage, manifest, split, number, afresh=True).check()
        except DamagedShard as error:
            found.append(Damage(name, str(error), (split, number)))
    for name in storage.names():
        shard = SHARD_NAME.fullmatch(name)
        is_ahead = shard and not manifest.splits[shard[1]].complete  # the manifest will name it
        if not (name in expected or name.endswith(TEMPORARY) or is_ahead):
            message = f"{name} does not belong to the cache {storage.url}: delete it"
            found.append(Damage(name, message))
    return found
