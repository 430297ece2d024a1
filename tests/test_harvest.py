"""Streaming activations of the embedded model: which rows are served, and in what order."""

import io
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import refusal
from torch import Tensor

from activation_cache import HarvestConfig, LanguageModel, harvest, load_model
from activation_cache.stream.source import ActivationSource
from activation_cache.text.blocks import counted_positions, special_ids
from activation_cache.text.documents import documents

EMBED = "blocks.0.hook_resid_pre"
RESID = "blocks.2.hook_resid_pre"
MLP = "blocks.1.mlp.hook_post"
CONTEXT_SIZE = 16

# Enough short documents that separators fall within blocks; about 2,600 tokens in `train`.
TEXTS = [
    f"Return item {i} of the list, or {i * i} if the index is out of range." for i in range(120)
]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("harvest") / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return str(path)


@pytest.fixture(scope="module")
def cfg(dataset: str) -> HarvestConfig:
    """Four blocks in each forward pass, four batches in the buffer."""
    return HarvestConfig(
        hook_names=(RESID,),
        dataset=dataset,
        context_size=CONTEXT_SIZE,
        batch_tokens=32,
        buffer_tokens=128,
        forward_tokens=4 * CONTEXT_SIZE,
    )


def take(stream: Any, n_batches: int, hook_name: str = RESID) -> list[Tensor]:
    return [batch[hook_name] for batch in islice(stream, n_batches)]


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Bit for bit, and in the same order."""
    assert len(actual) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def sorted_rows(x: Tensor) -> Tensor:
    return torch.tensor(sorted(x.tolist()))


def direct(
    model: LanguageModel, cfg: HarvestConfig, hook_name: str, n_forwards: int
) -> tuple[Tensor, Tensor]:
    """The activations of the first forward passes [rows, width], and which of them count."""
    blocks = ActivationSource(model, cfg).token_blocks("train", repeat=False)
    batches = list(islice(blocks, n_forwards))
    special = special_ids(model.tokenizer)
    x = torch.cat([model.activations(tokens, [hook_name])[hook_name] for tokens in batches])
    counted = torch.cat([counted_positions(tokens, special) for tokens in batches])
    return x.flatten(0, 1), counted.flatten()


# Which rows are served ---------------------------------------------------------------------------


@pytest.mark.parametrize("hook_name", [RESID, MLP])
def test_the_stream_serves_the_counted_activations_and_no_others(
    model: LanguageModel, cfg: HarvestConfig, hook_name: str
) -> None:
    x, counted = direct(model, cfg, hook_name, n_forwards=5)
    n_rows = int(counted.sum())
    assert 0 < n_rows < 5 * 4 * 15  # some separators, besides the first position of each block
    # A buffer that holds just these rows serves them all as its first batch.
    whole = replace(cfg, hook_names=(hook_name,), buffer_tokens=n_rows, batch_tokens=n_rows)
    (batch,) = take(harvest(model, whole), 1, hook_name)
    assert torch.equal(sorted_rows(batch), sorted_rows(x[counted]))
    assert not torch.equal(batch, x[counted])


def test_all_positions_serves_every_activation(model: LanguageModel, cfg: HarvestConfig) -> None:
    x, _ = direct(model, cfg, RESID, n_forwards=5)
    assert len(x) == 5 * 4 * CONTEXT_SIZE
    whole = replace(cfg, all_positions=True, buffer_tokens=len(x), batch_tokens=len(x))
    (batch,) = take(harvest(model, whole), 1)
    assert torch.equal(sorted_rows(batch), sorted_rows(x))


def places(model: LanguageModel, cfg: HarvestConfig) -> tuple[set[int], set[int]]:
    """The tokens and the positions of the rows that a stream serves, found from the embedding."""
    stream = harvest(model, replace(cfg, hook_names=(EMBED,)))
    rows = torch.cat(take(stream, 12, EMBED))
    tokens = torch.cat(
        list(islice(ActivationSource(model, cfg).token_blocks("train", repeat=False), 12))
    ).unique()
    transformer: Any = model.hf.transformer
    embedded = transformer.wte.weight[tokens][:, None] + transformer.wpe.weight[:CONTEXT_SIZE]
    distance = torch.cdist(
        rows, embedded.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest = distance.min(dim=1)
    assert nearest.values.max() < 1e-5
    return (
        set(tokens[nearest.indices // CONTEXT_SIZE].tolist()),
        set((nearest.indices % CONTEXT_SIZE).tolist()),
    )


@pytest.mark.parametrize("prepend_bos", [True, False])
def test_neither_position_0_nor_a_separator_is_ever_served(
    model: LanguageModel, cfg: HarvestConfig, prepend_bos: bool
) -> None:
    tokens, positions = places(model, replace(cfg, prepend_bos=prepend_bos))
    assert positions == set(range(1, CONTEXT_SIZE))
    assert model.tokenizer.eos_token_id == 0
    assert 0 not in tokens
    assert len(tokens) > 20


def test_position_0_and_separators_are_served_on_request(
    model: LanguageModel, cfg: HarvestConfig
) -> None:
    tokens, positions = places(model, replace(cfg, all_positions=True))
    assert positions == set(range(CONTEXT_SIZE))
    assert 0 in tokens


def test_batches_hold_batch_tokens_rows_of_the_models_width_and_dtype(cfg: HarvestConfig) -> None:
    model = load_model("tiny", device="cpu", dtype=torch.bfloat16)
    batch = next(iter(harvest(model, replace(cfg, hook_names=(RESID, MLP)))))
    assert {name: x.shape for name, x in batch.items()} == {RESID: (32, 192), MLP: (32, 768)}
    assert {x.dtype for x in batch.values()} == {torch.bfloat16}


def test_the_held_out_split_serves_the_held_out_documents(
    model: LanguageModel, cfg: HarvestConfig
) -> None:
    held_out = replace(cfg, split="held_out", prepend_bos=False)
    (tokens,) = islice(ActivationSource(model, held_out).token_blocks("held_out", repeat=False), 1)
    (text, *_) = documents(cfg, "held_out")
    opening = model.tokenizer(text)["input_ids"][:CONTEXT_SIZE]
    assert tokens[0, : len(opening)].tolist() == opening
    ours, theirs = (take(harvest(model, c), 1)[0] for c in (cfg, held_out))
    assert not torch.equal(sorted_rows(ours), sorted_rows(theirs))


def test_several_sites_hold_what_single_site_streams_hold(
    model: LanguageModel, cfg: HarvestConfig
) -> None:
    together = list(islice(harvest(model, replace(cfg, hook_names=(RESID, MLP, EMBED))), 6))
    for hook_name in (RESID, MLP, EMBED):
        alone = take(harvest(model, replace(cfg, hook_names=(hook_name,))), 6, hook_name)
        assert_same([batch[hook_name] for batch in together], alone)


# In which order ----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_stream(model: LanguageModel, cfg: HarvestConfig) -> None:
    assert_same(take(harvest(model, cfg), 8), take(harvest(model, cfg), 8))


def test_another_seed_gives_another_order_of_the_same_rows(
    model: LanguageModel, cfg: HarvestConfig
) -> None:
    full = replace(cfg, batch_tokens=128)  # the whole buffer at once: the same rows in any order
    (first,) = take(harvest(model, full), 1)
    (second,) = take(harvest(model, replace(full, seed=1)), 1)
    assert torch.equal(sorted_rows(first), sorted_rows(second))
    assert not torch.equal(first, second)


def test_the_order_does_not_depend_on_the_size_of_the_forward_passes(
    model: LanguageModel, cfg: HarvestConfig
) -> None:
    one_by_one = take(harvest(model, replace(cfg, forward_tokens=1)), 4)
    for a, b in zip(one_by_one, take(harvest(model, cfg), 4), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_text_starts_again_when_it_ends(model: LanguageModel, cfg: HarvestConfig) -> None:
    stream = harvest(model, replace(cfg, buffer_tokens=32))
    assert stream.n_epochs == 0
    assert len(take(stream, 90)) == 90  # 2,880 rows, of a text of about 2,600 tokens
    assert stream.n_epochs >= 1


# Resuming ----------------------------------------------------------------------------------------


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    """Through a file, as a checkpoint goes."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("n_consumed", [0, 7])
def test_a_restored_stream_goes_on_bit_for_bit(
    model: LanguageModel, cfg: HarvestConfig, n_consumed: int
) -> None:
    both = replace(cfg, hook_names=(RESID, MLP))
    first = harvest(model, both)
    take(first, n_consumed)
    state = saved_and_loaded(first.state_dict())
    expected = list(islice(first, 8))
    second = harvest(model, both)
    second.load_state_dict(state)
    resumed = list(islice(second, 8))
    for hook_name in (RESID, MLP):
        assert_same([x[hook_name] for x in resumed], [x[hook_name] for x in expected])


def test_a_stream_may_be_restored_anywhere_in_a_short_text(
    model: LanguageModel, cfg: HarvestConfig, tmp_path: Path
) -> None:
    # A block to each forward pass and half a block to each batch: the first pass over the text
    # ends in the middle of this, and every state within it has to work.
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[:6]))
    short = replace(
        cfg,
        dataset=str(path),
        context_size=32,
        forward_tokens=32,
        batch_tokens=16,
        buffer_tokens=16,
    )
    first = harvest(model, short)
    batches: list[Tensor] = []
    states = [first.state_dict()]
    while first.n_epochs < 2:
        batches += take(first, 1)
        states.append(first.state_dict())
    assert len(batches) > 8
    for n_consumed, state in enumerate(states):
        second = harvest(model, short)
        second.load_state_dict(state)
        expected = batches[n_consumed : n_consumed + 3]
        assert_same(take(second, len(expected)), expected)


def test_a_stream_in_use_may_be_set_back_to_an_earlier_state(
    model: LanguageModel, cfg: HarvestConfig
) -> None:
    stream = harvest(model, cfg)
    take(stream, 3)
    state = stream.state_dict()
    expected = take(stream, 12)
    stream.load_state_dict(state)
    assert_same(take(stream, 12), expected)


# Bad input ---------------------------------------------------------------------------------------


def test_a_context_beyond_the_models_is_refused(model: LanguageModel, cfg: HarvestConfig) -> None:
    message = refusal(lambda: harvest(model, replace(cfg, context_size=129)))
    assert message == "context_size 129 is more than tiny can see: give at most 128"
    (batch,) = take(harvest(model, replace(cfg, context_size=128)), 1)
    assert batch.shape == (32, 192)


def test_an_unknown_site_is_refused_before_any_text_is_read(
    model: LanguageModel, cfg: HarvestConfig
) -> None:
    bad = replace(cfg, dataset="absent.txt", hook_names=(RESID, "blocks.9.hook_resid_pre"))
    message = refusal(lambda: harvest(model, bad))
    assert message == "blocks.9.hook_resid_pre does not exist: tiny has layers 0 to 3"


def test_a_text_that_is_too_short_is_refused(
    model: LanguageModel, cfg: HarvestConfig, tmp_path: Path
) -> None:
    path = tmp_path / "short.txt"
    path.write_text("the first")
    short = replace(cfg, dataset=str(path))
    message = refusal(lambda: next(iter(harvest(model, short))))
    assert "fewer than one context of 16: give more text" in message
