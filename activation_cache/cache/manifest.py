"""The description of a cache: manifest.json, with a checksum against accidents."""

import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_type_hints

import xxhash

from activation_cache.cache.codec import CodecCost, CodecName
from activation_cache.cache.storage import Storage
from activation_cache.common.errors import InputError, refuse_below
from activation_cache.common.schema import convert, parse_json
from activation_cache.stream.source import SourceConfig
from activation_cache.text.config import Split

FILE = "manifest.json"
FORMAT = "featureloom activation cache"
VERSION = 1
REMEDY = "restore it from a copy, or harvest again"
SPLITS: tuple[Split, ...] = ("held_out", "train")
"""In the order in which they are harvested: a cache that is being filled can be evaluated on."""

MODEL_IDENTITY = ("weights", "dtype", "processing")
"""Where a model was loaded from may differ as long as these do not."""

SHARD_NAME = re.compile(r"(train|held_out)/(\d{6,})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class CacheConfig(SourceConfig):
    """Which activations a cache holds, how many, and how they are stored."""

    n_tokens: int = 1_000_000
    """Rows of the training split; fewer where the text ends before."""
    held_out_tokens: int = 65_536
    """Rows of the held-out split, from other documents; 0 for none."""
    codec: CodecName = "bfloat16"
    """float32, bfloat16, float16, or int8 with scales for channels and rows."""
    shard_tokens: int = 65_536
    """Rows in each shard, rounded up to whole forward passes. What a kill can lose at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(1, n_tokens=self.n_tokens, shard_tokens=self.shard_tokens)
        refuse_below(0, held_out_tokens=self.held_out_tokens)
        convert(CodecName, self.codec, "codec")

    def wanted(self, split: Split) -> int:
        """Rows asked for of a split."""
        return self.n_tokens if split == "train" else self.held_out_tokens


@dataclass(frozen=True)
class ShardEntry:
    """One shard: its rows, where in the text they begin, and a checksum of every byte."""

    n_rows: int
    cursor: dict[str, int]
    """Of the token blocks, before the shard."""
    checksums: dict[str, str]
    """XXH3 of the file's header and of each tensor: together, of every byte."""
    costs: dict[str, CodecCost]
    """What the codec loses at each site, measured on a sample of the shard."""


@dataclass(frozen=True)
class SplitEntry:
    shards: tuple[ShardEntry, ...] = ()
    cursor: dict[str, int] | None = None
    """Of the token blocks, after the last shard."""
    text: dict[str, Any] | None = None
    """A record of the documents that were read: another text under the same name is noticed."""
    complete: bool = False
    """Whether all rows asked for are there, or the text has ended."""

    @property
    def shard_rows(self) -> tuple[int, ...]:
        return tuple(shard.n_rows for shard in self.shards)

    @property
    def n_rows(self) -> int:
        return sum(self.shard_rows)


@dataclass(frozen=True)
class Manifest:
    """Everything about a cache but its rows."""

    config: CacheConfig
    model: dict[str, str]
    """name, fingerprint of the weights, dtype and processing."""
    tokenizer: dict[str, str]
    versions: dict[str, str]
    widths: dict[str, int]
    splits: dict[str, SplitEntry] = field(
        default_factory=lambda: {split: SplitEntry() for split in SPLITS}
    )
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the training split, by site: n_rows, mean_norm, mean and variance of each channel."""

    @property
    def complete(self) -> bool:
        return all(split.complete for split in self.splits.values())

    def shards(self) -> list[tuple[Split, int]]:
        """The split and the number of every shard."""
        return [(split, i) for split in SPLITS for i in range(len(self.splits[split].shards))]

    def codec_fvu(self, site: str) -> float:
        """The fraction of the variance at a site that the codec loses, over all shards."""
        shards = (shard for split in self.splits.values() for shard in split.shards)
        return sum((shard.costs[site] for shard in shards), CodecCost()).fvu

    def with_split(self, name: Split, split: SplitEntry) -> "Manifest":
        return replace(self, splits={**self.splits, name: split})

    def identity(self) -> dict[str, Any]:
        """What must be the same for two harvests to be parts of one cache."""
        return {
            **asdict(self.config),
            **{f"model {name}": self.model[name] for name in MODEL_IDENTITY},
            "tokenizer": self.tokenizer,
        }

    def refuse_other(self, where: str, other: "Manifest") -> None:
        """Raise `InputError` where another harvest is not of this cache, which lies at `where`."""
        ours = self.identity()
        for name, theirs in other.identity().items():
            if theirs != ours[name]:
                raise InputError(
                    f"the cache {where} was begun with {name} {ours[name]!r}, not {theirs!r}: "
                    f"give that, or another folder"
                )

    def to_bytes(self) -> bytes:
        content = {
            "format": FORMAT,
            "version": VERSION,
            **vars(self),
            "codec_fvu": {site: self.codec_fvu(site) for site in self.widths},
            "n_rows": {name: split.n_rows for name, split in self.splits.items()},
        }
        return with_checksum(content)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Manifest":
        """Parse a manifest; `InputError` where it is damaged or was made by a newer version."""
        try:
            content = parse_json(data, FILE)
        except InputError as error:
            raise InputError(f"the {FILE} of {where} is damaged ({error}): {REMEDY}") from error
        if content.get("format") != FORMAT:
            raise InputError(f"{where} is not an activation cache: its {FILE} is something else")
        if content.get("version") != VERSION:
            version = content.get("version")
            raise InputError(f"{where} has version {version} of the format: update featureloom")
        if with_checksum({n: x for n, x in content.items() if n != "checksum"}) != data:
            raise InputError(f"the {FILE} of {where} is not what was written: {REMEDY}")
        kinds, config = get_type_hints(cls), content.get("config")
        if isinstance(config, dict) and isinstance(config.get("dataset"), str):
            config["dataset"] = [config["dataset"]]  # as older versions wrote it
        return cls(**{n: convert(kind, content.get(n), n) for n, kind in kinds.items()})


def shard_name(split: Split, number: int) -> str:
    """The path of a shard in the cache. Manifests hold no paths, so none can point elsewhere."""
    return f"{split}/{number:06d}.safetensors"


def with_checksum(content: dict[str, Any]) -> bytes:
    """The bytes of a manifest of this content."""
    checksum = xxhash.xxh3_128_hexdigest(_serialise(content))
    return _serialise({**content, "checksum": checksum})


def _serialise(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, default=asdict) + "\n").encode()


def read_manifest(storage: Storage) -> Manifest:
    try:
        data = storage.read(FILE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{storage.url} is not an activation cache: it has no {FILE}; make one with "
            f"`featureloom harvest`"
        ) from error
    return Manifest.from_bytes(data, storage.url)
