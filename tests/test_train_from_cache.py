"""Training from a cache instead of a live stream, as a user does it."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import sae
from activation_cache import ActivationCache, CacheConfig, InputError, LanguageModel
from activation_cache.cache.manifest import FILE
from activation_cache.cache.storage import Storage
from activation_cache.model.loading import TINY_FOLDER
from sae.runs.evaluation import evaluate_dictionary
from sae.runs.run import run
from sae.runs.settings import RunSettings

RESID, MLP = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
SMALL = RunSettings.of(
    batch_tokens=64, buffer_tokens=512, eval_tokens=256, d_sae=64, k=4, log_every=4, wandb="off"
)


@pytest.fixture(scope="module")
def cache(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> ActivationCache:
    """1,000 rows of two sites, seen in contexts of 64 tokens."""
    cfg = CacheConfig(
        hook_names=(RESID, MLP), n_tokens=1000, held_out_tokens=100, shard_tokens=400,
        context_size=64,
    )  # fmt: skip
    return ActivationCache.create(tmp_path_factory.mktemp("caches") / "cache", tiny, cfg)


@pytest.fixture
def settings(cache: ActivationCache, tmp_path: Path) -> Callable[..., RunSettings]:
    def make(**changes: object) -> RunSettings:
        return SMALL.but(cache=cache.folder, out=tmp_path / "run", **changes)

    return make


def test_a_dictionary_is_trained_at_every_site_of_a_cache_and_evaluated_in_its_model(
    settings: Callable[..., RunSettings],
) -> None:
    results = run(settings())
    assert [result.hook_name for result in results] == [RESID, MLP]
    for result in results:
        rows = _logged(result.folder)
        assert rows[-1]["n_tokens"] == 1000  # all of the cache, once
        saved = sae.load(result.folder)
        assert saved.provenance.to_metadata()["model_name"] == "tiny"
        assert saved.provenance.to_metadata()["context_size"] == 64
        assert evaluate_dictionary(saved).to_json() == (
            (result.folder / "eval.json").read_text().rstrip("\n")
        )


def _logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_epochs_read_the_cache_again(settings: Callable[..., RunSettings]) -> None:
    (result,) = run(settings(hook_name=(MLP,), epochs=2, n_tokens=1500))
    config = json.loads((result.folder / "config.json").read_text())["settings"]
    assert (config["epochs"], config["n_tokens"], config["context_size"]) == (2, 1500, 64)
    rows = _logged(result.folder)
    assert rows[-1]["n_tokens"] == 1500


def test_a_run_from_a_cache_is_repeated_by_its_config(
    settings: Callable[..., RunSettings], tmp_path: Path
) -> None:
    from sae.runs.settings.run_settings import settings_from_file

    (first,) = run(settings(hook_name=(RESID,)))
    again = settings_from_file(first.folder / "config.json")
    (second,) = run(again.but(out=tmp_path / "again"))
    assert second.report.to_json() == first.report.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_tokens": 1001}, "holds 1000 rows of train.*give --epochs 2"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"hook_name": ("blocks.0.hook_resid_pre",)}, "has no site blocks.0.hook_resid_pre"),
        ({"model": str(TINY_FOLDER)}, "model '.*tiny_lm' is not what the cache .* \\('tiny'\\)"),
        ({"dataset": "other.txt"}, "dataset '.*other.txt' is not what the cache"),
        ({"context_size": 32}, "context_size 32 is not what the cache"),
        ({"cache": "/nowhere"}, "/nowhere is not an activation cache"),
    ],
)
def test_what_does_not_fit_the_cache_is_refused_and_leaves_nothing_behind(
    settings: Callable[..., RunSettings], changes: dict[str, object], message: str
) -> None:
    fields = dict(changes)
    with pytest.raises((InputError, sae.InputError), match=message):
        made = settings()
        run(made.but(**fields))
    assert not settings().out.exists()


def test_epochs_without_a_cache_are_refused() -> None:
    with pytest.raises(sae.InputError, match="epochs are passes over a cache"):
        RunSettings.of(epochs=2)


def test_a_cache_of_other_weights_than_the_named_model_has_now_is_refused(
    cache: ActivationCache, settings: Callable[..., RunSettings], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cache.folder, copy)
    manifest = cache.manifest
    other = dataclasses.replace(manifest, model={**manifest.model, "weights": "0" * 32})
    Storage(copy).write(FILE, other.to_bytes())
    with pytest.raises(InputError, match=r"was begun with model weights '000.*give that"):
        run(settings().but(cache=str(copy)))
