"""Which activations, of which text: what a stream and a cache have in common."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from activation_cache.common.errors import InputError, refuse_below
from activation_cache.common.finite import all_finite
from activation_cache.common.types import OnNaN, TextBatch
from activation_cache.model.language_model import LanguageModel
from activation_cache.model.loading import TINY
from activation_cache.stream.shuffle import Rows
from activation_cache.text.blocks import TokenBatch, TokenBlocks, counted_positions, special_ids
from activation_cache.text.config import DOCSTRINGS, SPLITS, Split, TextConfig
from activation_cache.text.documents import documents
from activation_cache.text.files import is_local

CONTEXT_TOKENS = 10
"""Tokens that are quoted in front of one whose activations are not finite."""

CONTEXT_CHARS, TOKEN_CHARS = 50, 20
"""How much of them is quoted at most."""


def of_other_text(model: str, cfg: TextConfig) -> str | None:
    """What to tell whoever reads the default text with a model that was trained on another."""
    if model == TINY or cfg.dataset != (DOCSTRINGS,):
        return None
    return (
        f"warning: the text is docstrings of Python packages, which are not what {model} was "
        f"trained on: name a text with --dataset"
    )


@dataclass(frozen=True, kw_only=True)
class SourceConfig(TextConfig):
    """Which activations are read, and from which text."""

    hook_names: tuple[str, ...] = field(default=(), metadata={"setting": "hook_name"})
    """Site by TransformerLens name or module:PATH (middle residual stream). Repeatable: all sites
    are read in the same forward pass."""
    context_size: int = 128
    """Tokens in each block that the model sees, BOS included."""
    prepend_bos: bool = True
    """Begin every block with BOS. The published GPT-2 dictionaries do."""
    all_positions: bool = False
    """Include position 0 and special tokens. docs/metrics.md says why they are left out by
    default."""
    forward_tokens: int = 4096
    """Tokens in each forward pass of the model, in whole blocks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.hook_names, str):
            raise InputError("hook_names must be a tuple of names, as ('blocks.2.hook_resid_pre',)")
        if len(set(self.hook_names)) < len(self.hook_names):
            raise InputError(f"hook_names has one twice: name each of {self.hook_names} once")
        refuse_below(1, forward_tokens=self.forward_tokens)
        refuse_below(2, context_size=self.context_size)

    @property
    def forward_blocks(self) -> int:
        return max(1, self.forward_tokens // self.context_size)


def _refuse_tokens_without_embedding(model: LanguageModel, cfg: TextConfig) -> None:
    """`InputError` where a local text has a token that was added to the tokenizer alone.

    Most models have more embeddings than tokens, and then no text is read. What is on the hub is
    looked at as it is read.
    """
    tokenizer: Any = model.tokenizer
    added: dict[str, int] = tokenizer.get_added_vocab()
    missing = {token: i for token, i in added.items() if i >= model.n_vocab}
    sources = [source for source in cfg.dataset if source != DOCSTRINGS and is_local(source)]
    if not missing or not sources:
        return
    only_local = replace(cfg, dataset=tuple(sources), dataset_weight=())
    for split in SPLITS:
        for number, document in enumerate(documents(only_local, split)):
            found = next((t for t in missing if isinstance(document, str) and t in document), None)
            if found is not None:
                raise InputError(
                    f"document {number} of {cfg.source} ({str(document)[:CONTEXT_CHARS]!r}...) has "
                    f"the token {found!r} with id {missing[found]}, and {model.name} has "
                    f"embeddings for {model.n_vocab} ids: give text without it, or a model that "
                    f"was trained with it"
                )


class Origins(NamedTuple):
    """Where rows are from, a number each."""

    token_ids: Int[Tensor, " rows"]
    positions: Int[Tensor, " rows"]
    """In the block that the model saw."""
    documents: Int[Tensor, " rows"]
    """The number of the document in its split."""
    opens_block: Bool[Tensor, " rows"]
    """Whether a row is the first of its block: the rows up to it had another context."""


class ActivationSource:
    """A model's activations at the counted positions of token batches, with their origins."""

    def __init__(self, model: LanguageModel, cfg: SourceConfig) -> None:
        cfg = replace(cfg, hook_names=cfg.hook_names or (model.middle_site,))
        self.widths = {name: model.width(name) for name in cfg.hook_names}  # refuses unknown sites
        if cfg.context_size > model.max_context_size:
            raise InputError(
                f"context_size {cfg.context_size} is more than {model.name} can see: "
                f"give at most {model.max_context_size}"
            )
        _refuse_tokens_without_embedding(model, cfg)
        self.model = model
        self.cfg = cfg
        self._special = special_ids(model.tokenizer)

    def token_blocks(self, split: Split, *, repeat: bool) -> TokenBlocks:
        """The packed token blocks of one split of the text."""
        cfg = self.cfg
        return TokenBlocks(
            partial(documents, cfg, split),
            self.model.tokenizer,
            context_size=cfg.context_size,
            batch_blocks=cfg.forward_blocks,
            prepend_bos=cfg.prepend_bos,
            repack=cfg.repack,
            repeat=repeat,
            n_vocab=self.model.n_vocab,
            source=cfg.source if split == "train" else f"{cfg.source} (held out)",
        )

    def text(self, blocks: TokenBlocks, n_tokens: int) -> Iterator[TextBatch]:
        """The first `n_tokens` tokens.

        Contexts are whole, so there may be more tokens, by less than a context.
        """
        n_contexts = math.ceil(n_tokens / self.cfg.context_size)
        while n_contexts > 0 and (batch := blocks.next_or_none()) is not None:
            tokens, documents = (of[:n_contexts] for of in batch)
            yield TextBatch(tokens, self.counted(tokens), documents)
            n_contexts -= len(tokens)

    def counted(self, tokens: Int[Tensor, "batch pos"]) -> Tensor:
        """Which positions [batch, pos] are served."""
        return counted_positions(tokens, self._special) | self.cfg.all_positions

    def rows(self, batch: TokenBatch, *, on_nan: OnNaN = "stop") -> Rows:
        """The activations of one forward pass at its counted positions.

        A row that holds NaN or Inf at any site is left out of all of them with `skip`; with `stop`
        it raises an `InputError` that names the site and the text.
        """
        counted = self.counted(batch.tokens).flatten().nonzero().squeeze(1)
        on_device = counted.to(self.model.device, non_blocking=True)  # a mask would make CUDA wait
        found = self.model.activations(batch.tokens, self.cfg.hook_names)
        rows = {name: x.flatten(0, 1).index_select(0, on_device) for name, x in found.items()}
        if all_finite(rows.values()):
            return rows
        finite = {name: torch.isfinite(x).all(dim=1).cpu() for name, x in rows.items()}
        if on_nan == "stop":
            raise self._refusal(finite, counted, batch)
        kept = torch.stack([*finite.values()]).all(dim=0).nonzero().squeeze(1)
        return {name: x.index_select(0, kept.to(x.device)) for name, x in rows.items()}

    def _refusal(
        self, finite: dict[str, Tensor], counted: Int[Tensor, " rows"], batch: TokenBatch
    ) -> InputError:
        """What to say of rows that are not finite: where they are, and what can be done."""
        site = next(name for name, its_finite in finite.items() if not its_finite.all())
        bad = (~finite[site]).nonzero().squeeze(1)
        block, position = divmod(int(counted[bad[0]]), batch.tokens.shape[1])
        return InputError(
            f"{site} of {self.model.name} holds NaN or Inf in {len(bad)} of {len(counted)} rows of "
            f"a forward pass, first in document {int(batch.documents[block, position])} at "
            f"position {position} of {self._quoted(batch.tokens[block], position)}: give another "
            f"--dtype; training that harvests as it goes can leave such rows out (--on-nan skip)"
        )

    def _quoted(self, tokens: Int[Tensor, " pos"], position: int) -> str:
        """A token, marked, after those before it: a line of bounded length."""
        decode = self.model.tokenizer.decode
        before = str(decode(tokens[max(0, position - CONTEXT_TOKENS) : position]))
        token = str(decode(tokens[position : position + 1]))
        return repr(f"{before[-CONTEXT_CHARS:]}«{token[:TOKEN_CHARS]}»")

    def origins(self, batch: TokenBatch) -> Origins:
        """Where the rows of the same batch are from."""
        counted = self.counted(batch.tokens)
        positions = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)
        opens_block = counted & (counted.cumsum(dim=1) == 1)
        return Origins(
            batch.tokens[counted],
            positions[counted],
            batch.documents[counted],
            opens_block[counted],
        )


def text_batches(
    model: LanguageModel, cfg: SourceConfig, n_tokens: int, split: Split = "train"
) -> list[TextBatch]:
    """The first tokens of a text as batches [batch, pos], with a mask of those that count and the
    document of each.

    It is what `sae.evaluate` and `sae.features.collect` read. Position 0 and special tokens do not
    count, unless `cfg.all_positions`.
    """
    source = ActivationSource(model, cfg)
    return list(source.text(source.token_blocks(split, repeat=False), n_tokens))
