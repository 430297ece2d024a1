"""Damage to objects of a bucket is found, not served, and mended."""

from pathlib import Path

import torch
from buckets import damage, objects, rows
from forks import files, refusal

from activation_cache import ActivationCache, LanguageModel
from activation_cache.cache.manifest import FILE
from activation_cache.cache.storage import Storage


def test_damage_to_an_object_is_found_although_there_is_a_good_copy_here(
    bucket: str, local: ActivationCache, tmp_path: Path
) -> None:
    url, name = f"{bucket}/folder", "train/000002.safetensors"
    local.copy_to(url)
    cache = ActivationCache.open(url, read_cache=tmp_path / "copies")
    assert cache.verify() == []
    whole = damage(url, name)
    assert [found.file for found in cache.verify()] == [name]
    Storage(url).write(name, whole)
    assert cache.verify() == []


def test_damage_to_an_object_is_found_and_none_of_its_rows_served(
    bucket: str, local: ActivationCache, tmp_path: Path
) -> None:
    url, name = f"{bucket}/folder", "train/000000.safetensors"
    local.copy_to(url)
    damage(url, name)
    cache = ActivationCache.open(url, read_cache=tmp_path / "copies")
    assert name in refusal(lambda: rows(cache))
    assert [found.file for found in cache.verify()] == [name]


def test_a_damaged_object_that_was_put_right_is_read_again(
    bucket: str, local: ActivationCache, tmp_path: Path
) -> None:
    """The damaged copy that was made in between must not stay."""
    url, name = f"{bucket}/folder", "train/000000.safetensors"
    local.copy_to(url)
    whole = damage(url, name)
    assert len(ActivationCache.open(url, read_cache=tmp_path / "copies").verify()) == 1
    Storage(url).write(name, whole)
    cache = ActivationCache.open(url, read_cache=tmp_path / "copies")
    assert torch.equal(rows(cache), rows(local))
    assert cache.verify() == []


def test_a_missing_object_is_found(bucket: str, local: ActivationCache, tmp_path: Path) -> None:
    url, name = f"{bucket}/folder", "held_out/000000.safetensors"
    local.copy_to(url)
    Storage(url).remove(name)
    (found,) = ActivationCache.open(url, read_cache=tmp_path / "copies").verify()
    assert (found.file, found.shard) == (name, ("held_out", 0))
    assert "missing" in found.message


def test_a_damaged_and_a_missing_object_are_mended(
    bucket: str, local: ActivationCache, tiny: LanguageModel, tmp_path: Path
) -> None:
    url = f"{bucket}/folder"
    local.copy_to(url)
    damage(url, "train/000001.safetensors")
    Storage(url).remove("train/000003.safetensors")
    cache = ActivationCache.open(url, read_cache=tmp_path / "copies")
    assert len(cache.verify()) == 2
    assert cache.repair(tiny) == []
    assert objects(url) == files(Path(local.folder))


def test_a_changed_manifest_is_refused(bucket: str, local: ActivationCache) -> None:
    url = f"{bucket}/folder"
    local.copy_to(url)
    cache = ActivationCache.open(url)
    data = Storage(url).read(FILE)
    Storage(url).write(FILE, data.replace(b'"n_tokens": 400', b'"n_tokens": 401'))
    assert "is not what was written" in refusal(lambda: ActivationCache.open(url))
    assert [found.file for found in cache.verify()] == [FILE]
