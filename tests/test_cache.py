"""Harvesting a cache: which rows are in it, and what it says about itself."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import (
    CONTEXT_SIZE,
    FORWARD_BLOCKS,
    MLP,
    RESID,
    TEXTS,
    all_rows,
    config,
    packed,
    refusal,
    write_texts,
)
from torch import Tensor

from activation_cache import ActivationCache, CacheConfig, LanguageModel, load_model
from activation_cache.cache.manifest import SPLITS
from activation_cache.text.blocks import counted_positions, special_ids
from activation_cache.text.config import Split
from activation_cache.text.documents import documents
from activation_cache.text.split import is_held_out


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl")


@pytest.fixture(scope="module")
def cache(
    dataset: str, tmp_path_factory: pytest.TempPathFactory, tiny: LanguageModel
) -> ActivationCache:
    folder = tmp_path_factory.mktemp("caches") / "cache"
    return ActivationCache.create(folder, tiny, config(dataset))


def direct(model: LanguageModel, cfg: CacheConfig, site: str, split: Split) -> Tensor:
    """The model's activations at the counted positions of blocks that are packed here."""
    blocks = packed(model.tokenizer, cfg, split).blocks
    special = special_ids(model.tokenizer)
    return torch.cat(
        [
            model.activations(tokens, [site])[site][counted_positions(tokens, special)]
            for tokens in blocks.split(FORWARD_BLOCKS)
        ]
    )


# Which rows are in it ----------------------------------------------------------------------------


@pytest.mark.parametrize(("site", "split"), [(RESID, "train"), (MLP, "held_out")])
def test_each_site_holds_the_models_activations_in_the_order_of_the_text(
    cache: ActivationCache, tiny: LanguageModel, site: str, split: Split
) -> None:
    n_rows = cache.config.wanted(split)
    expected = direct(tiny, cache.config, site, split)[:n_rows]
    assert len(expected) == n_rows
    assert torch.equal(all_rows(cache, site, split), expected)


def test_there_are_exactly_as_many_rows_as_were_asked_for(cache: ActivationCache) -> None:
    assert (cache.n_rows(), cache.n_rows("held_out")) == (500, 60)
    n_rows = [shard.n_rows for shard in cache.manifest.splits["train"].shards]
    # Whole forward passes of at most 4 x 15 rows until there are 150; the last one is cut off.
    assert all(150 <= n < 150 + 60 for n in n_rows[:-1])
    assert sum(n_rows) == 500
    assert cache.manifest.complete


def test_several_sites_come_from_one_forward_pass(
    dataset: str, tmp_path: Path, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[str, ...]] = []
    activations = LanguageModel.activations

    def counting(self: LanguageModel, tokens: Tensor, hook_names: Sequence[str]) -> Any:
        if tokens.shape[1] == CONTEXT_SIZE:  # not a probe for the width
            passes.append(tuple(hook_names))
        return activations(self, tokens, hook_names)

    monkeypatch.setattr(LanguageModel, "activations", counting)
    cfg = config(dataset, n_tokens=100, held_out_tokens=0, shard_tokens=1000)
    ActivationCache.create(tmp_path, tiny, cfg)
    assert passes == [(RESID, MLP)] * 2  # of 60 positions less the separators


def test_held_out_rows_come_from_other_documents(
    cache: ActivationCache, tiny: LanguageModel
) -> None:
    for split in SPLITS:
        texts = list(documents(cache.config, split))
        assert {is_held_out(text) for text in texts} == {split == "held_out"}
        ids = [set(tiny.tokenizer(text)["input_ids"]) for text in texts]
        for row in range(0, cache.n_rows(split), 7):
            origin = cache.origin(row, split)
            assert origin.token_id in ids[origin.document]


def test_a_text_that_ends_early_gives_the_rows_it_has(tmp_path: Path, tiny: LanguageModel) -> None:
    dataset = write_texts(tmp_path / "texts.jsonl", TEXTS[:20] + TEXTS[-4:])
    cfg = config(dataset, n_tokens=1_000_000, held_out_tokens=1_000_000)
    cache = ActivationCache.create(tmp_path / "cache", tiny, cfg)
    assert cache.manifest.complete
    for split in SPLITS:
        rows = packed(tiny.tokenizer, cfg, split).rows
        assert 0 < cache.n_rows(split) == len(rows) < 1_000
        assert torch.equal(all_rows(cache, MLP, split), direct(tiny, cfg, MLP, split))


def test_a_cache_needs_no_held_out_rows(dataset: str, tmp_path: Path, tiny: LanguageModel) -> None:
    cache = ActivationCache.create(tmp_path, tiny, config(dataset, held_out_tokens=0))
    assert (cache.n_rows(), cache.n_rows("held_out")) == (500, 0)
    assert cache.manifest.complete
    assert not (tmp_path / "held_out").exists()


@pytest.mark.parametrize("shard_tokens", [1, 10_000])
def test_the_rows_do_not_depend_on_the_size_of_the_shards(
    cache: ActivationCache, dataset: str, tmp_path: Path, tiny: LanguageModel, shard_tokens: int
) -> None:
    cfg = config(dataset, n_tokens=200, shard_tokens=shard_tokens)
    other = ActivationCache.create(tmp_path, tiny, cfg)
    assert torch.equal(all_rows(other), all_rows(cache)[:200])


def test_all_positions_are_cached_on_request(
    dataset: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    cfg = config(dataset, n_tokens=3 * CONTEXT_SIZE, held_out_tokens=0, all_positions=True)
    cache = ActivationCache.create(tmp_path, tiny, cfg)
    tokens = packed(tiny.tokenizer, cfg, "train").blocks[:FORWARD_BLOCKS]
    expected = tiny.activations(tokens, [RESID])[RESID].flatten(0, 1)
    assert torch.equal(all_rows(cache), expected[: 3 * CONTEXT_SIZE])
    origins = [cache.origin(row) for row in range(3 * CONTEXT_SIZE)]
    assert [origin.position for origin in origins] == [*range(CONTEXT_SIZE)] * 3
    assert torch.equal(origins[CONTEXT_SIZE + 5].context, tokens[1, :6])


def test_a_model_in_bfloat16_is_cached_in_float32_without_loss(
    dataset: str, tmp_path: Path
) -> None:
    model = load_model("tiny", device="cpu", dtype=torch.bfloat16)
    cfg = config(dataset, n_tokens=120)
    cache = ActivationCache.create(tmp_path, model, cfg)
    assert cache.manifest.model["dtype"] == "bfloat16"
    assert torch.equal(all_rows(cache), direct(model, cfg, RESID, "train")[:120].float())


# Where rows are from -----------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_leads_back_to_its_place_in_the_text(
    cache: ActivationCache, tiny: LanguageModel, split: Split
) -> None:
    expected = packed(tiny.tokenizer, cache.config, split).rows
    for row in range(0, cache.n_rows(split), 3):
        origin = cache.origin(row, split)
        found = (origin.document, origin.position, origin.token_id, origin.context.tolist())
        assert found == expected[row]


def test_the_context_of_a_row_is_that_of_its_own_block_alone(
    tmp_path: Path, tiny: LanguageModel
) -> None:
    # Without BOS, position 0 is not in the cache, and of documents of a word or two a block of
    # three tokens may hold one counted position: then positions rise across blocks.
    words = ["the", "a", "of", "it", "is", "list", "in", "to", "for", "if"]
    texts = [" ".join(words[i % 10 : i % 10 + 1 + i % 2]) + " " * (i % 9) for i in range(60)]
    dataset = write_texts(tmp_path / "texts.jsonl", texts)
    cfg = config(dataset, context_size=3, prepend_bos=False, n_tokens=40, held_out_tokens=0)
    cache = ActivationCache.create(tmp_path / "cache", tiny, cfg)
    expected = packed(tiny.tokenizer, cfg, "train").rows
    found = [cache.origin(row).context.tolist() for row in range(cache.n_rows())]
    assert found == [counted.context for counted in expected[: len(found)]]


@pytest.mark.parametrize("row", [-1, 500])
def test_a_row_that_is_not_there_is_refused(cache: ActivationCache, row: int) -> None:
    message = refusal(lambda: cache.origin(row))
    assert message == f"the cache {cache.folder} has rows 0 to 499"


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"held_out_tokens": -1}, "held_out_tokens must be at least 0, got -1"),
        ({"shard_tokens": 0}, "shard_tokens must be at least 1, got 0"),
    ],
)
def test_a_config_that_cannot_work_is_refused(changes: dict[str, Any], expected: str) -> None:
    assert refusal(lambda: config("docstrings", **changes)) == expected


def test_an_unknown_codec_is_refused() -> None:
    cfg = config("docstrings")
    vars(cfg)["codec"] = "int4"  # as in normal use, where nothing checks types
    message = refusal(cfg.__post_init__)
    assert message == "codec must be one of float32, bfloat16, float16, int8, got 'int4'"


def test_an_unknown_site_is_refused_before_anything_is_written(
    dataset: str, tmp_path: Path, tiny: LanguageModel
) -> None:
    cfg = config(dataset, hook_names=(RESID, "blocks.9.hook_resid_pre"))
    message = refusal(lambda: ActivationCache.create(tmp_path / "cache", tiny, cfg))
    assert message == "blocks.9.hook_resid_pre does not exist: tiny has layers 0 to 3"
    assert not (tmp_path / "cache").exists()


def test_a_text_without_held_out_documents_is_refused(tmp_path: Path, tiny: LanguageModel) -> None:
    texts = [f"The {i}th." for i in range(200)]
    kept = [text for text in texts if not is_held_out(text)]
    cfg = config(write_texts(tmp_path / "texts.jsonl", kept))
    message = refusal(lambda: ActivationCache.create(tmp_path / "cache", tiny, cfg))
    assert "the text holds 0 tokens in this split, fewer than one context of 16" in message
    without = replace(cfg, held_out_tokens=0)
    assert ActivationCache.create(tmp_path / "other", tiny, without).n_rows() == 500
