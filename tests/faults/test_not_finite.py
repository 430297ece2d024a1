"""Activations that are NaN or infinite: found where their text is at hand, and told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import refusal
from not_finite_rows import (
    DOCUMENT,
    EMBED,
    ERROR,
    N_TEXTS,
    POSITION,
    RESID,
    ROWS_OF_A_PASS,
    TEXTS,
    assert_same,
    config,
    damaged,
    passes,
    take,
    token_of,
    without_a_word,
    written,
)
from torch import Tensor

from activation_cache import ActivationCache, CacheConfig, HarvestConfig, LanguageModel, harvest
from activation_cache.common.finite import all_finite
from activation_cache.stream.source import ActivationSource
from activation_cache.text.split import is_held_out

REMEDY = (
    "give another --dtype; training that harvests as it goes can leave such rows out (--on-nan "
    "skip)"
)


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> HarvestConfig:
    return config(tmp_path_factory.mktemp("not_finite"))


@pytest.fixture
def broken() -> LanguageModel:
    return damaged(without_a_word)


def test_the_layout_of_this_file_is_what_it_says(tiny: LanguageModel, cfg: HarvestConfig) -> None:
    blocks = ActivationSource(tiny, cfg).token_blocks("train", repeat=False)
    batches = [blocks.next_batch() for _ in range(N_TEXTS // 4)]
    tokens = torch.cat([batch.tokens for batch in batches])
    assert tokens.shape == (N_TEXTS, 8)
    assert torch.cat([x.documents for x in batches])[:, 3].tolist() == list(range(N_TEXTS))
    assert [tiny.tokenizer.decode(block[1:7]) for block in tokens] == TEXTS
    assert (tokens == token_of(ERROR)).nonzero().tolist() == [[DOCUMENT, POSITION]]
    assert len(passes(tiny, cfg, 1)[0][EMBED]) == ROWS_OF_A_PASS


# Stopping ----------------------------------------------------------------------------------------


def test_the_site_the_rows_the_document_and_the_text_are_named(
    broken: LanguageModel, cfg: HarvestConfig
) -> None:
    stream = harvest(broken, cfg)
    take(stream, 1)  # out of the first pass, which the word is not in
    words, _, _ = TEXTS[DOCUMENT].partition(ERROR)
    assert refusal(lambda: next(stream)) == (
        f"{EMBED} of tiny holds NaN or Inf in 1 of 24 rows of a forward pass, first in document 5 "
        f"at position 4 of '<|endoftext|>{words}« error»': {REMEDY}"
    )


def test_behind_attention_all_rows_of_the_block_are_counted(
    broken: LanguageModel, cfg: HarvestConfig
) -> None:
    message = refusal(lambda: passes(broken, replace(cfg, hook_names=(RESID,)), 2))
    # The six words; neither BOS nor EOS is served.
    assert message.startswith(
        f"{RESID} of tiny holds NaN or Inf in 6 of 24 rows of a forward pass, first in document 5 "
        f"at position 1 of "
    )


def test_of_several_sites_the_first_that_is_not_finite_is_named(cfg: HarvestConfig) -> None:
    def change(transformer: Any) -> None:
        transformer.h[1].mlp.c_proj.bias.data[0] = float("nan")

    both = replace(cfg, hook_names=(EMBED, RESID))
    assert refusal(lambda: passes(damaged(change), both, 1)).startswith(
        f"{RESID} of tiny holds NaN or Inf in 24 of 24 rows of a forward pass, first in document 0 "
        f"at position 1 of '<|endoftext|>«{TEXTS[0][: TEXTS[0].index(' ', 1)]}»': "
    )
    before = replace(cfg, hook_names=("blocks.1.hook_resid_mid",))
    assert len(passes(damaged(change), before, 5)) == 5


def test_infinite_entries_are_found_even_where_they_cancel(cfg: HarvestConfig) -> None:
    def change(transformer: Any) -> None:
        transformer.wte.weight.data[token_of(ERROR), 0] = float("inf")
        transformer.wte.weight.data[token_of(ERROR), 1] = -float("inf")

    assert "holds NaN or Inf in 1 of 24 rows" in refusal(lambda: passes(damaged(change), cfg, 2))


def test_what_overflows_in_float16_is_refused_and_fits_into_bfloat16(cfg: HarvestConfig) -> None:
    def change(transformer: Any) -> None:
        for part in (transformer.h[1].attn, transformer.h[1].mlp):
            part.c_proj.bias.data[0] = 40_000.0  # 80,000 together, and float16 ends at 65,504

    deep = replace(cfg, hook_names=(RESID,))
    message = refusal(lambda: passes(damaged(change, torch.float16), deep, 1))
    assert f"{RESID} of tiny holds NaN or Inf in 24 of 24 rows" in message
    (rows,) = passes(damaged(change, torch.bfloat16), deep, 1)
    assert rows[RESID].dtype == torch.bfloat16
    assert (rows[RESID][:, 0] > 65_504).all()


def test_positions_that_are_not_served_may_be_anything(cfg: HarvestConfig) -> None:
    def change(transformer: Any) -> None:
        transformer.wpe.weight.data[0] = float("nan")

    assert len(passes(damaged(change), cfg, 2)[1][EMBED]) == ROWS_OF_A_PASS
    every = replace(cfg, all_positions=True)
    message = refusal(lambda: passes(damaged(change), every, 1))
    # One in each block, and all eight positions of each are served.
    assert "in 4 of 32 rows of a forward pass, first in document 0 at position 0 of" in message
    assert "'«<|endoftext|>»'" in message


def test_the_text_is_quoted_in_one_line_however_it_looks(
    broken: LanguageModel, cfg: HarvestConfig, tmp_path: Path
) -> None:
    wild = " list" * 20 + "\x1b[2J\r\n\x00'\"" + ERROR
    assert not is_held_out(wild * 20)
    dataset = written(tmp_path / "wild.jsonl", [wild * 20])
    message = refusal(
        lambda: passes(
            broken, replace(cfg, dataset=dataset, context_size=128, forward_tokens=128), 1
        )
    )
    assert message.isprintable() and len(message) < 400
    assert "\\x1b[2J\\r\\n\\x00\\'\"« error»'" in message


def test_a_stream_that_has_stopped_goes_on_at_the_same_place_once_that_is_mended(
    broken: LanguageModel, tiny: LanguageModel, cfg: HarvestConfig
) -> None:
    stream, undisturbed = harvest(broken, cfg), harvest(tiny, cfg)
    assert_same(take(stream, 1), take(undisturbed, 1))
    refusal(lambda: next(stream))
    state = stream.state_dict()
    refusal(lambda: next(stream))
    broken.hf.load_state_dict(tiny.hf.state_dict())
    expected = take(undisturbed, 12)
    assert_same(take(stream, 12), expected)
    restored = harvest(tiny, cfg)
    restored.load_state_dict(state)
    assert_same(take(restored, 12), expected)


def test_a_cache_refuses_them_and_names_the_text(
    broken: LanguageModel, cfg: HarvestConfig, tmp_path: Path
) -> None:
    shared = {name: getattr(cfg, name) for name in ("dataset", "context_size", "forward_tokens")}
    sizes = {"n_tokens": 200, "held_out_tokens": 0, "shard_tokens": ROWS_OF_A_PASS}
    of_cache = CacheConfig(hook_names=(EMBED,), codec="float32", **shared, **sizes)
    message = refusal(lambda: ActivationCache.create(tmp_path / "cache", broken, of_cache))
    assert "in 1 of 24 rows of a forward pass, first in document 5 at position 4 of" in message
    assert "« error»" in message
    # The shard before is there and whole, and no other.
    assert ActivationCache.open(tmp_path / "cache").verify() == []
    assert [path.name for path in (tmp_path / "cache" / "train").iterdir()] == [
        "000000.safetensors"
    ]


# The check itself --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "bad"), [(torch.float32, float("nan")), (torch.bfloat16, -float("inf"))]
)
def test_one_bad_entry_anywhere_is_found(dtype: torch.dtype, bad: float) -> None:
    good = torch.zeros(7, 5, dtype=dtype)
    for i in range(good.numel()):
        x = good.clone()
        x.view(-1)[i] = bad
        assert not all_finite([good, x])
    assert all_finite([good, good])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_sum_that_overflows_is_no_bad_entry(dtype: torch.dtype) -> None:
    x = torch.full((300, 4), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite([x])
    x[0, 0] = float("nan")
    assert not all_finite([x])


def test_infinities_of_both_signs_are_found() -> None:
    x: Tensor = torch.zeros(4, 2)
    x[0, 0], x[3, 1] = float("inf"), -float("inf")
    assert not all_finite([x])
