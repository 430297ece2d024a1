"""Activations that are NaN or infinite: found where their text is at hand, and told or left out.

Every document is six words and EOS, a block of eight with BOS: document i is block i, its word j
stands at position j, and a forward pass over four blocks has 24 rows.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import refusal
from torch import Tensor

from activation_cache import (
    ActivationCache,
    CacheConfig,
    HarvestConfig,
    LanguageModel,
    harvest,
    load_model,
)
from activation_cache.finite import all_finite
from activation_cache.shuffle import Rows
from activation_cache.source import ActivationSource
from activation_cache.text import is_held_out

HARVEST = import_module("activation_cache.harvest")  # which the function of that name hides
EMBED = "blocks.0.hook_resid_pre"
RESID = "blocks.2.hook_resid_pre"
WORDS = (" the", " list", " of", " value", " name", " array", " index", " file")
ERROR = " error"
DOCUMENT, POSITION = 5, 4
"""Where the only ` error` is: in the second forward pass."""
N_TEXTS = 40
ROWS_OF_A_PASS = 24
REMEDY = (
    "give another --dtype; training that harvests as it goes can leave such rows out (--on-nan "
    "skip)"
)


def texts(n_texts: int, errors: Mapping[int, int]) -> list[str]:
    """Six words each, all of the training split; `errors` says which one of a document it is in."""
    found: list[str] = []
    candidates = (list(words) for words in permutations(WORDS, 6))
    while len(found) < n_texts:
        words = next(candidates)
        if len(found) in errors:
            words[errors[len(found)] - 1] = ERROR
        if not is_held_out("".join(words)):
            found.append("".join(words))
    return found


TEXTS = texts(N_TEXTS, {DOCUMENT: POSITION})


def written(path: Path, texts: list[str]) -> str:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return str(path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("not_finite") / "texts.jsonl", TEXTS)


@pytest.fixture(scope="module")
def cfg(dataset: str) -> HarvestConfig:
    return HarvestConfig(
        hook_names=(EMBED,),
        dataset=dataset,
        context_size=8,
        forward_tokens=4 * 8,
        batch_tokens=12,
        buffer_tokens=24,
    )


def damaged(change: Callable[[Any], None], dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The embedded model with its weights changed."""
    model = load_model("tiny", device="cpu", dtype=dtype)
    change(model.hf.transformer)
    return model


def without_a_word(transformer: Any) -> None:
    """The embedding of ` error` is NaN, and behind attention all of its block: 0 * NaN is NaN."""
    transformer.wte.weight.data[token_of(ERROR)] = float("nan")


def token_of(word: str) -> int:
    (token,) = load_model("tiny", device="cpu").tokenizer(word)["input_ids"]
    return token


@pytest.fixture
def broken() -> LanguageModel:
    return damaged(without_a_word)


def passes(
    model: LanguageModel, cfg: HarvestConfig | CacheConfig, n_passes: int, **options: Any
) -> list[Rows]:
    """The rows of the first forward passes."""
    source = ActivationSource(model, cfg)
    blocks = source.token_blocks("train", repeat=False)
    return [source.rows(blocks.next_batch(), **options) for _ in range(n_passes)]


def take(stream: Any, n_batches: int) -> list[Rows]:
    return list(islice(stream, n_batches))


def assert_same(actual: list[Rows], expected: list[Rows]) -> None:
    """Bit for bit, and in the same order."""
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[site], theirs[site]) for site in ours)


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


# Leaving out -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("n_consumed", [0, 1, 2, 20, 25])
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
        f"1 of 48 rows of {EMBED} held NaN or Inf and were left out, more than 1%: give another "
        f"--dtype, or check the weights of tiny"
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
    assert refusal(other.__post_init__) == "unknown on_nan 'ignore': use stop or skip"


# The check itself --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_entry_anywhere_is_found(dtype: torch.dtype, bad: float) -> None:
    good = torch.zeros(7, 5, dtype=dtype)
    for i in range(good.numel()):
        x = good.clone()
        x.view(-1)[i] = bad
        assert not all_finite([good, x])
    assert all_finite([good, good])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sum_that_overflows_is_no_bad_entry(dtype: torch.dtype) -> None:
    x = torch.full((300, 4), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite([x])
    x[0, 0] = float("nan")
    assert not all_finite([x])


def test_infinities_of_both_signs_are_found() -> None:
    x: Tensor = torch.zeros(4, 2)
    x[0, 0], x[3, 1] = float("inf"), -float("inf")
    assert not all_finite([x])
