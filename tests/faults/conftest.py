"""What the tests of faults share: runs to cut short, and valid files to damage."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from caches import write_texts
from offline_wandb import WandBServer
from resuming import Maker, in_step, quick, sit
from workshop import Workshop, make_cache

from activation_cache import LanguageModel
from sae.runs.run import run
from sae.runs.settings import RunSettings

MB = 2**20

# Runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl")


@pytest.fixture
def make(tmp_path: Path, gpt2: LanguageModel, dataset: str) -> Iterator[Maker]:
    """Settings of small runs, which are quick as long as the test lasts."""
    with quick(gpt2):
        yield Maker(tmp_path, gpt2, dataset)


@pytest.fixture(scope="session")
def finished(gpt2: LanguageModel, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed: to compare with, not to change."""
    make = Maker(tmp_path_factory.mktemp("finished"), gpt2, dataset)
    with quick(gpt2):
        run(make("undisturbed"))
    return make("undisturbed").out


@pytest.fixture(scope="session")
def halfway(gpt2: LanguageModel, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that died in its sixth step, with checkpoints at 256 and 320."""
    settings = Maker(tmp_path_factory.mktemp("halfway"), gpt2, dataset)(checkpoint_tokens=64)
    with quick(gpt2):
        assert sit(settings, in_step(6), resume=False)
    return settings.out


@pytest.fixture
def died(halfway: Path, make: Maker) -> RunSettings:
    """A copy of that run, to go on with."""
    shutil.copytree(halfway, make().out)
    return make(checkpoint_tokens=64)


# Weights & Biases --------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[WandBServer]:
    with WandBServer() as started:
        yield started
        started.vanish()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


# Hostile files -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cache_to_copy(tmp_path_factory: pytest.TempPathFactory, tiny: LanguageModel) -> Path:
    return make_cache(tmp_path_factory.mktemp("cache"), tiny)


@pytest.fixture
def shop(tmp_path: Path, cache_to_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """The working folder of the test, two levels deep: what escapes it is seen as well."""
    folder = tmp_path / "around" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return Workshop(folder, cache_to_copy)


@pytest.fixture(scope="module")
def as_installed() -> Iterator[None]:
    """Without the type checks that only tests have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def no_more_memory() -> Iterator[None]:
    """What would take more than 6 GB fails here, and does not end everything on the machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 6 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A test that takes more than 50 MB, or tries to, fails."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limit = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 500 * MB, limit[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limit)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * MB / 1024
