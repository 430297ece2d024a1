"""What the tests of sweeps share: small sweeps of a model that is loaded once."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from caches import write_texts
from sweeps import (
    MLP,
    RESID,
    TWO,
    Grid,
    grid_file,
    loaded,
)

from activation_cache import ActivationCache, CacheConfig, LanguageModel
from sae.runs.sweep import SweepSettings, sweep


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_texts(tmp_path_factory.mktemp("sweeps") / "texts.jsonl")


@pytest.fixture(autouse=True)
def quick(gpt2: LanguageModel) -> Iterator[None]:
    with loaded(gpt2):
        yield


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("sae.runs.run"), "write_report", lambda _folder: None)


@pytest.fixture
def make(tmp_path: Path, gpt2: LanguageModel, dataset: str) -> Callable[..., SweepSettings]:
    """Settings of a sweep with this grid; what is not named is small."""

    def settings(grid: Grid, *, out: str = "sweep", **shared: Any) -> SweepSettings:
        own = ("resume", "members_per_pass")
        flags = {name: shared.pop(name) for name in own if name in shared}
        shared = {"model": gpt2.name, "dataset": dataset, **shared}
        path = grid_file(tmp_path / f"{out}.json", grid, **shared)
        return SweepSettings(grid=path, out=tmp_path / out, **flags)

    return settings


@pytest.fixture(scope="module")
def cache(
    gpt2: LanguageModel, dataset: str, tmp_path_factory: pytest.TempPathFactory
) -> ActivationCache:
    """700 rows of two sites in contexts of 16 tokens: no whole number of batches of 64."""
    cfg = CacheConfig(
        hook_names=(RESID, MLP), dataset=dataset, context_size=16, forward_tokens=128,
        n_tokens=700, held_out_tokens=60, shard_tokens=256,
    )  # fmt: skip
    return ActivationCache.create(tmp_path_factory.mktemp("cache") / "cache", gpt2, cfg)


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Without the type checks that only tests have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid that gets as far as the model was not refused in time."""

    def load(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the grid was accepted: a model would be loaded now")

    monkeypatch.setattr("sae.runs.inputs.load_model", load)


@pytest.fixture(scope="module")
def finished(
    gpt2: LanguageModel, dataset: str, tmp_path_factory: pytest.TempPathFactory
) -> SweepSettings:
    folder = tmp_path_factory.mktemp("finished")
    shared = {"model": gpt2.name, "dataset": dataset, "n_tokens": 192}
    settings = SweepSettings(
        grid=grid_file(folder / "grid.json", TWO, **shared), out=folder / "out"
    )
    with loaded(gpt2):
        sweep(settings)
    return settings


@pytest.fixture
def undisturbed(finished: SweepSettings, tmp_path: Path) -> SweepSettings:
    """A sweep that nothing disturbed, which a test may disturb."""
    out = tmp_path / "undisturbed"
    shutil.copytree(finished.out, out)
    return replace(finished, out=out)
