"""Texts and models of which known rows are NaN or infinite.

Every document is six words and EOS, a block of eight with BOS: document i is block i, its word j
stands at position j, and a forward pass over four blocks has 24 rows.
"""

import json
from collections.abc import Callable, Mapping
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import torch

from activation_cache import CacheConfig, HarvestConfig, LanguageModel, load_model
from activation_cache.stream.shuffle import Rows
from activation_cache.stream.source import ActivationSource
from activation_cache.text.split import is_held_out

EMBED = "blocks.0.hook_resid_pre"
RESID = "blocks.2.hook_resid_pre"
WORDS = (" the", " list", " of", " value", " name", " array", " index", " file")
ERROR = " error"
DOCUMENT, POSITION = 5, 4
"""Where the only ` error` is: in the second forward pass."""
N_TEXTS = 40
ROWS_OF_A_PASS = 24


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


def config(folder: Path) -> HarvestConfig:
    return HarvestConfig(
        hook_names=(EMBED,),
        dataset=written(folder / "texts.jsonl", TEXTS),
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
