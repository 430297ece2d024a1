"""Small caches of the embedded model, which the tests of caches share."""

import json
from collections.abc import Callable, Iterable
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from activation_cache import ActivationCache, CacheConfig, InputError
from activation_cache.text.config import Split
from activation_cache.text.documents import documents
from activation_cache.text.split import is_held_out

RESID = "blocks.2.hook_resid_pre"
MLP = "blocks.1.mlp.hook_post"
CONTEXT_SIZE = 16
FORWARD_BLOCKS = 4


def texts_of(split: Split, n_texts: int) -> list[str]:
    """Short documents of different lengths, so that separators fall within blocks."""
    candidates = (
        f"Return item {i} of the list, or {i * i} where the index is too large{' or so' * (i % 5)}."
        for i in count()
    )
    return list(islice((x for x in candidates if is_held_out(x) == (split == "held_out")), n_texts))


# About 2,600 tokens in `train` and 200 in `held_out`.
TEXTS = texts_of("train", 110) + texts_of("held_out", 8)


def write_texts(path: Path, texts: Iterable[str] = TEXTS) -> str:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return str(path)


def config(dataset: str, **changes: Any) -> CacheConfig:
    """500 rows of training in three shards, and 60 held out in one, unless something is changed."""
    settings: dict[str, Any] = {
        "hook_names": (RESID, MLP),
        "dataset": dataset,
        "context_size": CONTEXT_SIZE,
        "forward_tokens": FORWARD_BLOCKS * CONTEXT_SIZE,
        "n_tokens": 500,
        "held_out_tokens": 60,
        "shard_tokens": 150,
        "codec": "float32",
    }
    return CacheConfig(**settings | changes)


def refusal(act: Callable[[], object], kind: type[InputError] = InputError) -> str:
    """The message with which something is refused: always one line."""
    with pytest.raises(kind) as raised:
        act()
    message = str(raised.value)
    assert "\n" not in message
    return message


# What must be in a cache -------------------------------------------------------------------------


class Counted(NamedTuple):
    """A position that counts, packed here once more and in the simplest way."""

    document: int
    position: int
    token_id: int
    context: list[int]
    """The counted tokens of its block up to this one."""


class Packed(NamedTuple):
    blocks: Tensor
    """Token ids [block, pos]."""
    rows: list[Counted]


def packed(tokenizer: Any, cfg: CacheConfig, split: Split) -> Packed:
    """The blocks and the counted positions of a whole split, not cut off at any number of rows."""
    separator = tokenizer.eos_token_id
    tokens: list[tuple[int, int]] = []  # document and id
    for number, text in enumerate(documents(cfg, split)):
        tokens += [(number, token_id) for token_id in (*tokenizer(text)["input_ids"], separator)]
    head = [(-1, separator)] if cfg.prepend_bos else []
    width = cfg.context_size - len(head)
    blocks: list[list[int]] = []
    rows: list[Counted] = []
    for start in range(0, len(tokens) - width + 1, width):
        block = [*head, *tokens[start : start + width]]
        blocks.append([token_id for _, token_id in block])
        context: list[int] = []
        for position, (document, token_id) in enumerate(block):
            if position > 0 and token_id != separator:
                context = [*context, token_id]
                rows.append(Counted(document, position, token_id, context))
    return Packed(torch.tensor(blocks), rows)


def all_rows(cache: ActivationCache, site: str = RESID, split: Split = "train") -> Tensor:
    """Every row of a site in the order of the text."""
    with cache.batches(97, sites=[site], split=split, shuffle=False) as stream:
        return torch.cat([batch[site] for batch in stream])


def sorted_rows(x: Tensor) -> Tensor:
    return torch.tensor(sorted(x.tolist()))


# What lies on the disk ---------------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rewrite(path: Path, data: bytes) -> None:
    """Put another file in the place of one that may still be mapped into memory."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def damage(path: Path, tensor: str) -> None:
    """Flip one bit of the first number of a tensor in a safetensors file."""
    data = bytearray(path.read_bytes())
    n_header = int.from_bytes(data[:8], "little")
    begin = json.loads(data[8 : 8 + n_header])[tensor]["data_offsets"][0]
    data[8 + n_header + begin] ^= 1
    rewrite(path, bytes(data))
