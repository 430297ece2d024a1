"""What the tests share: the embedded model, and small dictionaries with known weights."""

import os
import tempfile

# Before torch and the hub clients are imported: no spinning threads, no network, no W&B server, and
# nothing in the user's cache folder.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="featureloom-tests-")
os.environ.pop("WANDB_API_KEY", None)

import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from forks import Forks, shared_forks
from harvests import Undisturbed, harvest_undisturbed
from small_models import saved, small_gpt2, small_llama
from torch import Tensor

from activation_cache import LanguageModel, load_model
from activation_cache.cache.storage import Storage

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def tiny() -> LanguageModel:
    """The embedded language model. Tests must leave it as it is."""
    return load_model("tiny", device="cpu")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_model(saved(tmp_path_factory.mktemp("gpt2"), small_gpt2), device="cpu")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_model(saved(tmp_path_factory.mktemp("llama"), small_llama), device="cpu")


@pytest.fixture(scope="session", params=["tiny", "gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 4096, (2, 16), generator=generator)


@pytest.fixture(scope="session")
def forks() -> Forks:
    """Starts processes that have everything imported already."""
    return shared_forks()


@pytest.fixture(scope="session")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A harvest by the script. Tests copy its folder before they do anything to it."""
    return harvest_undisturbed(forks, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder in memory that nobody else uses."""
    name = f"storage-{uuid.uuid4().hex}"
    yield f"memory://{name}"
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{name}"):
        fs.rm(f"/{name}", recursive=True)


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> Storage:
    url = tmp_path / "folder" if request.param == "local" else memory
    return Storage(url, read_cache=tmp_path / "copies")
