"""Rows that are NaN or infinite are left out and counted where `on_nan` says so."""

import io
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from caches import refusal
from not_finite_rows import (
    EMBED,
    RESID,
    assert_same,
    config,
    damaged,
    passes,
    take,
    without_a_word,
)

from activation_cache import HarvestConfig, LanguageModel, harvest
from activation_cache.common.finite import all_finite

HARVEST = import_module("activation_cache.stream.harvest")  # which the function of that name hides


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> HarvestConfig:
    return config(tmp_path_factory.mktemp("not_finite"))


@pytest.fixture
def broken() -> LanguageModel:
    return damaged(without_a_word)


def test_rows_are_left_out_of_all_sites_and_the_others_stay_as_they_were(
    broken: LanguageModel, tiny: LanguageModel, cfg: HarvestConfig
) -> None:
    both = replace(cfg, hook_names=(EMBED, RESID))
    skipping = passes(broken, both, 3, on_nan="skip")
    whole = passes(tiny, both, 3)
    kept = [*range(6), *range(12, 24)]  # document 5 is the second of its pass
    whole[1] = {site: x[kept] for site, x in whole[1].items()}
    assert_same(skipping, whole)


def test_the_stream_counts_the_rows_that_it_leaves_out(
    broken: LanguageModel, cfg: HarvestConfig
) -> None:
    stream = harvest(broken, replace(cfg, hook_names=(EMBED, RESID), on_nan="skip"))
    served = take(stream, 1)
    assert stream.n_skipped_rows == 0
    served += take(stream, 1)
    assert stream.n_skipped_rows == 6
    # The buffer takes 24 rows and 12 for each of 38 batches more: 480. The first two times the text
    # gives 234, and the third time 24 before that document.
    served += take(stream, 37)
    assert stream.n_skipped_rows == 12
    assert all(all_finite(batch.values()) for batch in served)


def test_a_text_without_such_rows_is_served_as_ever(
    tiny: LanguageModel, cfg: HarvestConfig
) -> None:
    skipping = harvest(tiny, replace(cfg, on_nan="skip"))
    assert_same(take(skipping, 30), take(harvest(tiny, cfg), 30))
    assert skipping.n_skipped_rows == 0


@pytest.mark.parametrize("n_consumed", [1, 20])
def test_a_restored_stream_leaves_out_and_counts_on(
    broken: LanguageModel, cfg: HarvestConfig, n_consumed: int
) -> None:
    skipping = replace(cfg, on_nan="skip")
    first = harvest(broken, skipping)
    take(first, n_consumed)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    expected = take(first, 30)
    file.seek(0)
    second = harvest(broken, skipping)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert_same(take(second, 30), expected)
    assert second.n_skipped_rows == first.n_skipped_rows > 0


def test_more_than_one_in_a_hundred_is_too_many(
    broken: LanguageModel, cfg: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HARVEST, "SKIPPED_OF_ROWS", 48)
    stream = harvest(broken, replace(cfg, on_nan="skip"))
    take(stream, 1)
    # One of the 48 rows of the first two passes, which is 2%.
    assert refusal(lambda: next(stream)) == (
        f"1 of 48 rows of {EMBED} held NaN or Inf, more than 1%: give another --dtype, or fix the "
        f"weights"
    )


def test_the_share_is_judged_by_enough_rows_alone(
    broken: LanguageModel, cfg: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One of 120 is less than one in a hundred, and so is one of 240, the whole text.
    monkeypatch.setattr(HARVEST, "SKIPPED_OF_ROWS", 120)
    stream = harvest(broken, replace(cfg, on_nan="skip"))
    while stream.n_epochs < 3:
        next(stream)
    assert stream.n_skipped_rows >= 3


def test_a_model_that_gives_nothing_finite_is_given_up(
    cfg: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(transformer: Any) -> None:
        transformer.wte.weight.data[:] = float("nan")

    monkeypatch.setattr(HARVEST, "SKIPPED_OF_ROWS", 1_000)
    stream = harvest(damaged(change), replace(cfg, on_nan="skip"))
    # The first count of whole passes that is at least 1,000 is 42 * 24.
    assert "1,008 of 1,008 rows of" in refusal(lambda: next(stream))


def test_on_nan_is_to_stop_or_to_skip(cfg: HarvestConfig) -> None:
    assert cfg.on_nan == "stop"
    other = replace(cfg)
    vars(other)["on_nan"] = "ignore"  # as in normal use, where nothing checks types
    assert refusal(other.__post_init__) == "on_nan must be one of stop, skip, got 'ignore'"
