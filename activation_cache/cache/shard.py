"""One shard: a safetensors file whose every byte is covered by a checksum."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from activation_cache.cache.codec import Encoded
from activation_cache.cache.manifest import ShardEntry
from activation_cache.common.errors import InputError
from activation_cache.stream.source import Origins

HEADER = "header"
"""What the checksum of everything before the tensors of a shard is listed as."""

LONG_CONTEXT = 2**15
"""From here on positions do not fit into int16."""


LARGEST_HEADER = 10**8
"""Bytes: safetensors reads no longer one."""


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
        tensors |= {tensor_name(site, part): x.cpu() for part, x in its.parts.items()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    data = to_safetensors(tensors)
    checksums = {name: _checksum(tensor) for name, tensor in tensors.items()}
    checksums[HEADER] = xxhash.xxh3_128_hexdigest(data[: _header_size(data[:8])])
    return data, checksums


def tensor_name(site: str, part: str) -> str:
    return site if part == "values" else f"{site}.{part}"


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
    widths: Mapping[str, int] = field(default_factory=dict)
    """Of its sites, as the manifest has them."""

    def __post_init__(self) -> None:
        self._checked: dict[str, Tensor] = {}
        try:
            if self._header_checksum() != self.entry.checksums[HEADER]:
                raise DamagedShard(f"{self.name} is damaged: its header is not what was written")
            self._file: Any = safe_open(self.path, framework="pt").__enter__()
        except FileNotFoundError as error:
            raise DamagedShard(f"{self.name} is missing") from error
        except (OSError, SafetensorError) as error:
            raise DamagedShard(f"{self.name} is damaged ({error})") from error
        unlisted = set(self._file.keys()) ^ (set(self.entry.checksums) - {HEADER})
        if unlisted:
            raise DamagedShard(f"{self.name} holds other tensors than was written: {unlisted}")
        for name in self.entry.checksums:
            if name != HEADER:
                self._refuse_other_shape(name)

    def _header_checksum(self) -> str:
        if self.path.exists() and not self.path.is_file():
            raise DamagedShard(f"{self.name} is damaged: it is no file")  # a pipe never ends
        with self.path.open("rb") as file:
            size = min(_header_size(file.read(8)), LARGEST_HEADER, self.path.stat().st_size)
            file.seek(0)
            return xxhash.xxh3_128_hexdigest(file.read(size))

    def _refuse_other_shape(self, name: str) -> None:
        """A checksum says that bytes are as somebody wrote them, not that they are rows."""
        found = tuple(self._file.get_slice(name).get_shape())
        site, _, part = name.rpartition(".")
        if name in Origins._fields:
            expected: tuple[int | None, ...] = (self.entry.n_rows,)
        elif part in ("channel_mean", "channel_scale"):
            expected = (self.widths.get(site),)
        else:
            width = 1 if part == "row_scale" else self.widths.get(name)
            expected = (self.entry.n_rows, width)
        fits = len(found) == len(expected) and all(
            wanted in (None, size) for size, wanted in zip(found, expected, strict=True)
        )
        if not fits:
            raise DamagedShard(
                f"{self.name} is damaged: {name} is of shape {found}, and the manifest says "
                f"{expected}"
            )

    def tensor(self, name: str) -> Tensor:
        if name not in self._checked:
            tensor = self._file.get_tensor(name)
            if _checksum(tensor) != self.entry.checksums[name]:
                raise DamagedShard(f"{self.name} is damaged: {name} is not what was written")
            self._checked[name] = tensor
        return self._checked[name]

    def encoded(self, site: str) -> Encoded:
        """The rows of a site, not decoded."""
        parts = {
            name.removeprefix(site).lstrip(".") or "values": name
            for name in self.entry.checksums
            if name == site or name.startswith(f"{site}.")
        }
        return Encoded({part: self.tensor(name) for part, name in parts.items()})

    def origins(self) -> Origins:
        token_ids, positions, documents = (
            self.tensor(name).to(torch.int64) for name in ("token_ids", "positions", "documents")
        )
        return Origins(token_ids, positions, documents, self.tensor("opens_block"))

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
