"""Caches as Hugging Face datasets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch

from activation_cache.cache.codec import decode_into
from activation_cache.cache.integrity import open_shard
from activation_cache.cache.manifest import Manifest, read_manifest
from activation_cache.cache.shard import version_of
from activation_cache.cache.storage import Storage
from activation_cache.text.documents import Split


def dataset_of(storage: Storage, manifest: Manifest, site: str, split: Split) -> datasets.Dataset:
    """The rows of one site in the order of the text; see `ActivationCache.to_dataset`."""
    features = datasets.Features(
        {
            "activation": datasets.List(datasets.Value("float32"), length=manifest.widths[site]),
            "token_id": datasets.Value("int32"),
            "position": datasets.Value("int32"),
            "document": datasets.Value("int32"),
        }
    )
    made = datasets.Dataset.from_generator(
        _rows,
        features=features,
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
        origins = (numbers.tolist() for numbers in shard.origins()[:3])
        for x, token_id, position, document in zip(rows.numpy(), *origins, strict=True):
            yield {
                "activation": x,
                "token_id": token_id,
                "position": position,
                "document": document,
            }
