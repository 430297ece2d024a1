"""Caches in object storage, S3 or memory, are made, read, copied and locked as anywhere else."""

import os
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import s3fs
import torch
from buckets import objects, rows, settings
from forks import files, flags, refusal, shared_forks

from activation_cache import ActivationCache, CacheConfig, LanguageModel
from activation_cache.cache.storage import LOCK_FILE, Storage
from activation_cache.cache.writer import Progress

# A cache as anywhere else ------------------------------------------------------------------------


def test_a_cache_in_a_bucket_holds_the_same_bytes_as_one_on_the_disk(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel, local: ActivationCache
) -> None:
    made = ActivationCache.create(f"{bucket}/a/folder", tiny, cfg)
    assert objects(f"{bucket}/a/folder") == files(Path(local.folder))
    assert made.manifest == local.manifest


def test_a_cache_in_a_bucket_is_opened_verified_and_read(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel, local: ActivationCache, tmp_path: Path
) -> None:
    ActivationCache.create(f"{bucket}/folder", tiny, cfg)
    cache = ActivationCache.open(f"{bucket}/folder", read_cache=tmp_path / "copies")
    assert cache.verify() == []
    assert torch.equal(rows(cache), rows(local))
    assert torch.equal(rows(cache, shuffle=True), rows(local, shuffle=True))
    assert cache.origin(350).token_id == local.origin(350).token_id


def test_creating_a_complete_cache_again_uploads_no_shard(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel, requests: Counter[str]
) -> None:
    ActivationCache.create(f"{bucket}/folder", tiny, cfg)
    assert requests["put_object"] == 5
    ActivationCache.create(f"{bucket}/folder", tiny, cfg)
    assert requests["put_object"] == 5


def test_an_interrupted_harvest_into_a_bucket_goes_on_to_the_same_bytes(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel, local: ActivationCache
) -> None:
    url = f"{bucket}/folder"
    told: list[Progress] = []

    def interrupt(step: Progress) -> None:
        told.append(step)
        if len(told) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ActivationCache.create(url, tiny, cfg, on_progress=interrupt)
    assert LOCK_FILE not in objects(url)
    cache = ActivationCache.open(url)
    assert cache.verify() == []
    assert not cache.manifest.complete
    ActivationCache.create(url, tiny, cfg)
    assert objects(url) == files(Path(local.folder))


@pytest.mark.slow
def test_a_harvest_into_a_bucket_that_was_killed_goes_on_to_the_same_bytes(
    bucket: str, server: str, text: Path, tmp_path: Path
) -> None:
    forks, env = shared_forks(), settings(server)
    assert forks.run(*flags(text, tmp_path / "cache")).code == 0
    command = flags(text, f"{bucket}/folder")
    for kill_at in (3, 8):  # there are few moments without files to sync: the forward passes
        assert forks.run(*command, env=env, kill_at=kill_at).code == -signal.SIGKILL
        assert LOCK_FILE in objects(f"{bucket}/folder")
        assert ActivationCache.open(f"{bucket}/folder").verify() == []
    assert forks.run(*command, env=env).code == 0
    assert objects(f"{bucket}/folder") == files(tmp_path / "cache")


# Writers -----------------------------------------------------------------------------------------


def test_a_second_writer_into_a_bucket_is_refused_with_the_process_of_the_first(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel, local: ActivationCache
) -> None:
    url = f"{bucket}/folder"
    messages: list[str] = []

    def tell(_: Progress) -> None:
        if not messages:
            before = objects(url)
            messages.append(refusal(lambda: ActivationCache.create(url, tiny, cfg)))
            assert objects(url) == before

    ActivationCache.create(url, tiny, cfg, on_progress=tell)
    assert f"process {os.getpid()} on " in messages[0]
    assert f"{url.removeprefix('s3://')}/{LOCK_FILE}" in messages[0]
    assert objects(url) == files(Path(local.folder))


def test_the_lock_in_a_bucket_is_gone_after_an_error(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel
) -> None:
    def fail(_: Progress) -> None:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        ActivationCache.create(f"{bucket}/folder", tiny, cfg, on_progress=fail)
    assert LOCK_FILE not in objects(f"{bucket}/folder")


def test_of_two_that_ask_at_once_for_the_lock_in_a_bucket_one_gets_it(bucket: str) -> None:
    """The server itself refuses to create what is there: no time passes between look and write."""
    storage = Storage(f"{bucket}/folder")
    lock = storage.path(LOCK_FILE)
    storage._fs.pipe_file(lock, b"host 1 1.00", mode="create")
    with pytest.raises(FileExistsError):
        storage._fs.pipe_file(lock, b"host 2 2.00", mode="create")
    assert storage.read(LOCK_FILE) == b"host 1 1.00"


# Elsewhere ---------------------------------------------------------------------------------------


@pytest.fixture
def places(bucket: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    name = f"object-storage-{uuid.uuid4().hex}"
    yield {
        "s3": f"{bucket}/folder",
        "file": f"file://{tmp_path}/folder",
        "memory": f"memory://{name}",
    }
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{name}"):
        fs.rm(f"/{name}", recursive=True)


@pytest.mark.parametrize(("source", "target"), [("s3", "file"), ("memory", "s3")])
def test_a_copy_from_anywhere_to_anywhere_is_the_same_cache(
    places: dict[str, str], source: str, target: str, local: ActivationCache, tmp_path: Path
) -> None:
    local.copy_to(places[source])
    copied = ActivationCache.open(places[source], read_cache=tmp_path / "1").copy_to(places[target])
    assert copied.folder == places[target]
    assert objects(places[target]) == files(Path(local.folder))
    cache = ActivationCache.open(places[target], read_cache=tmp_path / "2")
    assert cache.verify() == []
    assert torch.equal(rows(cache), rows(local))


def test_a_copy_over_a_cache_is_refused(bucket: str, local: ActivationCache) -> None:
    local.copy_to(f"{bucket}/folder")
    assert "holds a cache already" in refusal(lambda: local.copy_to(f"{bucket}/folder"))


def test_a_cache_in_memory_is_harvested_verified_and_mended(
    places: dict[str, str], cfg: CacheConfig, tiny: LanguageModel, local: ActivationCache
) -> None:
    url = places["memory"]
    ActivationCache.create(url, tiny, cfg)
    assert objects(url) == files(Path(local.folder))
    Storage(url).remove("train/000002.safetensors")
    cache = ActivationCache.open(url)
    assert cache.repair(tiny) == []
    assert objects(url) == files(Path(local.folder))


# What cannot be reached --------------------------------------------------------------------------


def test_a_bucket_that_is_not_there_is_told_in_one_line(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel
) -> None:
    url = f"{bucket}-of-nobody/folder"
    assert url in refusal(lambda: ActivationCache.open(url))
    assert url in refusal(lambda: ActivationCache.create(url, tiny, cfg))


def test_storage_that_wants_other_credentials_is_told_in_one_line(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    s3fs.S3FileSystem.clear_instance_cache()
    url = f"{bucket}/folder"
    try:
        assert url in refusal(lambda: ActivationCache.open(url))
        assert url in refusal(lambda: ActivationCache.create(url, tiny, cfg))
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
