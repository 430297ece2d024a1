"""What the tests of object storage share: a server on this machine that speaks S3, and a cache.

What comes and goes is counted where s3fs hands requests to the network.
"""

import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from buckets import RESID, settings
from forks import write_text
from moto.server import ThreadedMotoServer

from activation_cache import ActivationCache, CacheConfig, LanguageModel


@pytest.fixture(autouse=True)
def own_read_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other is given, copies are below the folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def local(
    cfg: CacheConfig, tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> ActivationCache:
    """The same cache on the disk."""
    return ActivationCache.create(tmp_path_factory.mktemp("local") / "cache", tiny, cfg)
