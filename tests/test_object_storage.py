"""Caches in object storage: a server on this machine that speaks S3, and memory.

What comes and goes is counted where s3fs hands requests to the network.
"""

import os
import signal
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
import torch
from forks import files, flags, refusal, shared_forks, write_text
from moto.server import ThreadedMotoServer
from torch import Tensor

from activation_cache import ActivationCache, CacheConfig, LanguageModel
from activation_cache.manifest import FILE
from activation_cache.storage import LOCK_FILE, Storage
from activation_cache.writer import Progress

RESID = "blocks.2.hook_resid_pre"


@pytest.fixture(autouse=True)
def own_read_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other is given, copies are below the folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    started = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    started.start()
    s3fs.S3FileSystem.clear_instance_cache()  # of another server
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    s3fs.S3FileSystem.clear_instance_cache()
    started.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket of the server, which the environment names as it would for any other."""
    for name, value in settings(server).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


def settings(server: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def requests(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kind of request for a shard was made."""
    made: Counter[str] = Counter()
    call = s3fs.S3FileSystem._call_s3

    def count(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        if str(options.get("Key", "")).endswith(".safetensors"):
            made[method] += 1
        return call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", count)
    return made


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def cfg(text: Path) -> CacheConfig:
    """Four shards of training and one held out."""
    return CacheConfig(
        hook_names=(RESID,),
        dataset=str(text),
        context_size=32,
        forward_tokens=64,
        n_tokens=400,
        held_out_tokens=50,
        shard_tokens=100,
    )


@pytest.fixture(scope="module")
def local(
    cfg: CacheConfig, tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> ActivationCache:
    """The same cache on the disk."""
    return ActivationCache.create(tmp_path_factory.mktemp("local") / "cache", tiny, cfg)


def objects(url: str) -> dict[str, bytes]:
    """Every object below a URL by its path relative to it."""
    storage = Storage(url)
    return {name: storage.read(name) for name in storage.names()}


def rows(cache: ActivationCache, *, shuffle: bool = False) -> Tensor:
    with cache.batches(64, shuffle=shuffle) as stream:
        return torch.cat([batch[RESID] for batch in stream])


def damage(url: str, name: str) -> bytes:
    """Flip a bit of an object amid its rows; what it was."""
    storage = Storage(url)
    data = storage.read(name)
    at = len(data) // 2
    storage.write(name, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    return data


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


@pytest.mark.parametrize("n_told", [1, 6])
def test_an_interrupted_harvest_into_a_bucket_goes_on_to_the_same_bytes(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel, local: ActivationCache, n_told: int
) -> None:
    url = f"{bucket}/folder"
    told: list[Progress] = []

    def interrupt(step: Progress) -> None:
        told.append(step)
        if len(told) == n_told:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ActivationCache.create(url, tiny, cfg, tell=interrupt)
    assert LOCK_FILE not in objects(url)
    cache = ActivationCache.open(url)
    assert cache.verify() == []
    assert not cache.manifest.complete
    ActivationCache.create(url, tiny, cfg)
    assert objects(url) == files(Path(local.folder))


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


# Copies on the local disk ------------------------------------------------------------------------


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


# Damage ------------------------------------------------------------------------------------------


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
    assert "was changed" in refusal(lambda: ActivationCache.open(url))
    assert [found.file for found in cache.verify()] == [FILE]


# Writers -----------------------------------------------------------------------------------------


def test_a_second_writer_into_a_bucket_is_refused_with_the_process_of_the_first(
    bucket: str, server: str, text: Path, cfg: CacheConfig, tiny: LanguageModel
) -> None:
    url = f"{bucket}/folder"
    forks = shared_forks()
    first = forks.harvest(*flags(text, url), env=settings(server), stop_at=3)
    before = objects(url)
    message = refusal(lambda: ActivationCache.create(url, tiny, cfg))
    assert f"process {first.pid} on " in message
    assert f"{url.removeprefix('s3://')}/{LOCK_FILE}" in message
    assert objects(url) == before
    assert forks.kill(first, signal.SIGCONT).code == 0
    assert LOCK_FILE not in objects(url)


def test_the_lock_in_a_bucket_is_gone_after_an_error(
    bucket: str, cfg: CacheConfig, tiny: LanguageModel
) -> None:
    def fail(_: Progress) -> None:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        ActivationCache.create(f"{bucket}/folder", tiny, cfg, tell=fail)
    assert LOCK_FILE not in objects(f"{bucket}/folder")


def test_of_two_that_ask_at_once_for_the_lock_in_a_bucket_one_gets_it(bucket: str) -> None:
    """The server itself refuses to create what is there: no time passes between look and write."""
    storage = Storage(f"{bucket}/folder")
    assert storage._create_object("host 1 1.00")
    assert not storage._create_object("host 2 2.00")
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


@pytest.mark.parametrize(("source", "target"), [*permutations(("s3", "file", "memory"), 2)])
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
