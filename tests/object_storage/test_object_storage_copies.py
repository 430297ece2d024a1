"""Shards of object storage are downloaded once, and a bad copy of one is not served."""

from collections import Counter
from pathlib import Path

import torch
from buckets import objects, rows
from forks import files

from activation_cache import ActivationCache, CacheConfig, LanguageModel
from activation_cache.cache.manifest import FILE
from activation_cache.cache.storage import Storage


def test_a_shard_is_downloaded_once_for_all_readers(
    bucket: str, local: ActivationCache, tmp_path: Path, requests: Counter[str]
) -> None:
    url = f"{bucket}/folder"
    local.copy_to(url)
    first = rows(ActivationCache.open(url, read_cache=tmp_path / "copies"))
    assert requests["get_object"] == 4
    second = rows(ActivationCache.open(url, read_cache=tmp_path / "copies"))
    assert requests["get_object"] == 4
    assert torch.equal(first, second)
    assert len(files(tmp_path / "copies")) == 4


def test_rows_are_read_from_the_copies_although_the_objects_are_gone(
    bucket: str, local: ActivationCache, tmp_path: Path
) -> None:
    url = f"{bucket}/folder"
    local.copy_to(url)
    first = rows(ActivationCache.open(url, read_cache=tmp_path / "copies"))
    for name in objects(url):
        if name != FILE:
            Storage(url).remove(name)
    assert torch.equal(rows(ActivationCache.open(url, read_cache=tmp_path / "copies")), first)


def test_a_cache_that_was_made_anew_at_the_same_place_is_not_served_from_old_copies(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel, local: ActivationCache, tmp_path: Path
) -> None:
    url = f"{bucket}/folder"
    local.copy_to(url)
    rows(ActivationCache.open(url, read_cache=tmp_path / "copies"))
    for name in objects(url):
        Storage(url).remove(name)
    other = CacheConfig(**{**vars(cfg), "all_positions": True})
    ActivationCache.create(url, tiny, other)
    expected = ActivationCache.create(tmp_path / "other", tiny, other)
    found = rows(ActivationCache.open(url, read_cache=tmp_path / "copies"))
    assert torch.equal(found, rows(expected))
    assert not torch.equal(found, rows(local))


def test_a_copy_that_is_damaged_is_not_served_and_not_for_ever_in_the_way(
    bucket: str, local: ActivationCache, tmp_path: Path
) -> None:
    """The object is as it was written, and only this machine's copy of it is not."""
    url = f"{bucket}/folder"
    local.copy_to(url)
    expected = rows(ActivationCache.open(url, read_cache=tmp_path / "copies"))
    for copy in (tmp_path / "copies").iterdir():
        data = copy.read_bytes()
        copy.unlink()
        copy.write_bytes(data[:-100])
    assert torch.equal(rows(ActivationCache.open(url, read_cache=tmp_path / "copies")), expected)
    assert ActivationCache.open(url, read_cache=tmp_path / "copies").verify() == []
