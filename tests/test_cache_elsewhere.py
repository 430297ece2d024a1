"""Caches as Hugging Face datasets, and in object storage."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import fsspec
import pytest
import torch
from caches import MLP, RESID, all_rows, config, damage, files, refusal, rewrite, write_texts

from activation_cache import ActivationCache, LanguageModel
from activation_cache.cache.codec import CodecName
from activation_cache.cache.manifest import SPLITS
from activation_cache.cache.shard import DamagedShard
from activation_cache.text.config import Split

URL = "memory://featureloom-tests/cache"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_texts(tmp_path_factory.mktemp("elsewhere") / "texts.jsonl")


@pytest.fixture(scope="module")
def cache(
    dataset: str, tmp_path_factory: pytest.TempPathFactory, tiny: LanguageModel
) -> ActivationCache:
    folder = tmp_path_factory.mktemp("elsewhere") / "cache"
    return ActivationCache.create(folder, tiny, config(dataset))


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept where other programs look for it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    datasets.disable_progress_bars()


@pytest.fixture
def remote(cache: ActivationCache) -> Iterator[str]:
    """The cache in object storage, which is this process' memory."""
    cache.copy_to(URL)
    yield URL
    fsspec.filesystem("memory").rm(URL, recursive=True)


# Datasets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_a_dataset_holds_the_rows_and_where_they_are_from(
    cache: ActivationCache, split: Split
) -> None:
    rows = cache.to_dataset(RESID, split).with_format("torch")
    assert rows.column_names == ["activation", "token_id", "position", "document"]
    columns = rows[:]
    assert torch.equal(columns["activation"], all_rows(cache, RESID, split))
    for row in range(cache.n_rows(split)):
        origin = cache.origin(row, split)
        found = [int(columns[name][row]) for name in ("token_id", "position", "document")]
        assert found == [origin.token_id, origin.position, origin.document]


@pytest.mark.parametrize("codec", ["bfloat16", "int8"])
def test_rows_of_every_codec_are_float32_in_a_dataset(
    dataset: str, tmp_path: Path, tiny: LanguageModel, codec: CodecName
) -> None:
    cfg = config(dataset, codec=codec, n_tokens=120, held_out_tokens=0)
    cache = ActivationCache.create(tmp_path / "cache", tiny, cfg)
    rows = cache.to_dataset(RESID)
    assert rows.features["activation"] == datasets.List(datasets.Value("float32"), length=192)
    assert torch.equal(rows.with_format("torch")[:]["activation"], all_rows(cache).float())


def test_another_cache_in_the_same_folder_is_another_dataset(
    dataset: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    # `datasets` keeps what it made of a folder; it must not serve that of the cache before.
    folder = tmp_path / "cache"
    cfg = config(dataset, n_tokens=60, held_out_tokens=0, hook_names=(RESID,))
    first = ActivationCache.create(folder, tiny, cfg).to_dataset(RESID)
    for name in files(folder):
        (folder / name).unlink()
    cfg = config(dataset, n_tokens=60, held_out_tokens=0, hook_names=(RESID,), context_size=8)
    cache = ActivationCache.create(folder, tiny, cfg)
    second = cache.to_dataset(RESID).with_format("torch")[:]["activation"]
    assert torch.equal(second, all_rows(cache))
    assert not torch.equal(second, first.with_format("torch")[:]["activation"])


def test_a_dataset_of_an_unknown_site_is_refused(cache: ActivationCache) -> None:
    message = refusal(lambda: cache.to_dataset("blocks.3.hook_resid_pre"))
    assert message.startswith(f"the cache {cache.folder} has no site blocks.3.hook_resid_pre: ")


def test_a_dataset_of_a_split_without_rows_is_refused(
    dataset: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    cfg = config(dataset, n_tokens=60, held_out_tokens=0)
    cache = ActivationCache.create(tmp_path / "cache", tiny, cfg)
    assert "held_out" in refusal(lambda: cache.to_dataset(RESID, "held_out"))


# Copies ------------------------------------------------------------------------------------------


def test_a_copy_has_the_same_bytes(cache: ActivationCache, tmp_path: Path) -> None:
    copy = cache.copy_to(tmp_path / "copy")
    assert files(tmp_path / "copy") == files(Path(cache.folder))
    assert copy.folder == str(tmp_path / "copy")
    assert copy.verify() == []
    assert torch.equal(all_rows(copy, MLP), all_rows(cache, MLP))


def test_a_copy_never_overwrites_a_cache(cache: ActivationCache, tmp_path: Path) -> None:
    cache.copy_to(tmp_path / "copy")
    for folder in (tmp_path / "copy", cache.folder):
        message = refusal(lambda folder=folder: cache.copy_to(folder))
        assert message == f"{folder} holds a cache already: name another folder"


def test_damage_is_not_copied(cache: ActivationCache, tmp_path: Path) -> None:
    first = cache.copy_to(tmp_path / "first")
    damage(tmp_path / "first/train/000002.safetensors", "token_ids")
    message = refusal(lambda: first.copy_to(tmp_path / "second"), DamagedShard)
    assert message.startswith(f"train/000002.safetensors of {tmp_path / 'first'} is damaged")
    # Nobody takes what was copied until then for a cache.
    assert "is not an activation cache" in refusal(
        lambda: ActivationCache.open(tmp_path / "second")
    )
    assert first.verify()[0].file == "train/000002.safetensors"


# Object storage ----------------------------------------------------------------------------------


def test_a_cache_in_object_storage_serves_the_same_rows(
    cache: ActivationCache, remote: str, tmp_path: Path
) -> None:
    there = ActivationCache.open(remote, read_cache=tmp_path / "copies")
    assert there.manifest == cache.manifest
    assert there.folder == remote
    assert there.verify() == []
    for split in SPLITS:
        assert torch.equal(all_rows(there, RESID, split), all_rows(cache, RESID, split))
    assert there.origin(300).context.tolist() == cache.origin(300).context.tolist()


def test_shards_are_copied_to_the_local_disk_once_and_only_when_they_are_read(
    remote: str, tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    there = ActivationCache.open(remote, read_cache=copies)
    assert not copies.exists()
    next(there.batches(10, n_tokens=10, shuffle=False, window_tokens=50, prefetch=1))
    assert len(files(copies)) == 1
    all_rows(there)
    before = {path.name: path.stat().st_mtime_ns for path in copies.iterdir()}
    assert len(before) == 3
    all_rows(ActivationCache.open(remote, read_cache=copies))
    assert {path.name: path.stat().st_mtime_ns for path in copies.iterdir()} == before


def test_two_caches_of_one_name_do_not_serve_each_others_copies(
    cache: ActivationCache, remote: str, dataset: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    copies = tmp_path / "copies"
    all_rows(ActivationCache.open(remote, read_cache=copies))
    fsspec.filesystem("memory").rm(remote, recursive=True)
    other = ActivationCache.create(tmp_path / "other", tiny, config(dataset, context_size=8))
    other.copy_to(remote)
    there = ActivationCache.open(remote, read_cache=copies)
    assert torch.equal(all_rows(there), all_rows(other))
    assert not torch.equal(all_rows(there), all_rows(cache))


def test_a_cache_is_harvested_into_object_storage_with_the_same_bytes(
    cache: ActivationCache, tmp_path: Path, tiny: LanguageModel
) -> None:
    url = "memory://featureloom-tests/harvested"
    memory = fsspec.filesystem("memory")
    try:
        ActivationCache.create(url, tiny, cache.config)
        found = {
            name: memory.cat_file(f"{url}/{name}")
            for name in (
                path.removeprefix("/featureloom-tests/harvested/") for path in memory.find(url)
            )
        }
        assert found == files(Path(cache.folder))
    finally:
        memory.rm(url, recursive=True)


def test_a_dataset_of_object_storage_is_read_through_the_same_copies(
    cache: ActivationCache, remote: str, tmp_path: Path
) -> None:
    there = ActivationCache.open(remote, read_cache=tmp_path / "copies")
    rows = there.to_dataset(RESID).with_format("torch")[:]["activation"]
    assert torch.equal(rows, all_rows(cache))
    assert len(files(tmp_path / "copies")) == 3
    assert files(tmp_path / "temporary") == {}


def test_damage_in_object_storage_is_found_though_there_is_a_good_copy(
    remote: str, tmp_path: Path
) -> None:
    there = ActivationCache.open(remote, read_cache=tmp_path / "copies")
    assert there.verify() == []
    memory = fsspec.filesystem("memory")
    data = bytearray(memory.cat_file(f"{remote}/train/000001.safetensors"))
    data[-1] ^= 1
    memory.pipe_file(f"{remote}/train/000001.safetensors", bytes(data))
    memory.rm_file(f"{remote}/train/000002.safetensors")
    assert [found.file for found in there.verify()] == [
        "train/000001.safetensors",
        "train/000002.safetensors",
    ]


def test_damage_to_a_local_copy_does_not_outlive_it(
    cache: ActivationCache, remote: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    copies = tmp_path / "copies"
    all_rows(ActivationCache.open(remote, read_cache=copies))
    for path in sorted(copies.iterdir()):
        rewrite(path, path.read_bytes()[:-1])  # as after a disk that was full
    there = ActivationCache.open(remote, read_cache=copies)
    assert there.repair(tiny) == []  # nothing is wrong with the cache itself
    assert torch.equal(all_rows(there), all_rows(cache))


def test_a_shard_in_object_storage_is_repaired(
    cache: ActivationCache, remote: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    memory = fsspec.filesystem("memory")
    memory.rm_file(f"{remote}/train/000002.safetensors")
    there = ActivationCache.open(remote, read_cache=tmp_path / "copies")
    assert [found.file for found in there.verify()] == ["train/000002.safetensors"]
    assert there.repair(tiny) == []
    expected = (Path(cache.folder) / "train/000002.safetensors").read_bytes()
    assert memory.cat_file(f"{remote}/train/000002.safetensors") == expected


def test_a_protocol_that_nobody_knows_is_refused() -> None:
    message = refusal(lambda: ActivationCache.open("nowhere://bucket/cache"))
    assert (
        message == "cannot use nowhere://bucket/cache: Protocol not known: nowhere; name a folder"
    )
