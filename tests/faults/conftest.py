"""What the tests of hostile files share: a folder with valid ones, for a test to damage."""

import resource
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from workshop import Workshop, make_cache

from activation_cache import LanguageModel


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
