"""Stream a model's activations at several sites from one forward pass, in shuffled batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from activation_cache.errors import InputError
from activation_cache.models import LanguageModel
from activation_cache.shuffle import Rows, ShuffleBuffer
from activation_cache.text import DOCSTRINGS, Split, documents
from activation_cache.tokens import TokenBlocks, counted_positions, special_ids


@dataclass(frozen=True, kw_only=True)
class HarvestConfig:
    """Which activations to stream, from which text, and how well shuffled."""

    hook_names: tuple[str, ...]
    """TransformerLens names; all come from the same forward pass and the same tokens."""
    dataset: str = DOCSTRINGS
    """`docstrings`, a local .txt, .json, .jsonl or .parquet file, or a hub dataset."""
    text_column: str = "text"
    split: Split = "train"
    context_size: int = 128
    """Tokens in each block that the model sees, BOS included."""
    prepend_bos: bool = True
    """Open every block with BOS, as the published GPT-2 dictionaries do."""
    all_positions: bool = False
    """Serve position 0 and special tokens as well; see `counted_positions` for why not."""
    batch_tokens: int = 1024
    """Rows in each batch served."""
    buffer_tokens: int = 65_536
    """Rows held in the shuffle buffer; more means a better shuffle and more memory."""
    forward_tokens: int = 4096
    """Tokens in each forward pass of the model, rounded down to whole blocks."""
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.hook_names, str) or not self.hook_names:
            raise InputError(
                "hook_names must be a tuple of at least one name, as ('blocks.2.hook_resid_pre',)"
            )
        for name in ("batch_tokens", "buffer_tokens", "forward_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.context_size < 2:
            raise InputError(f"context_size must be at least 2, got {self.context_size}")
        if self.buffer_tokens < self.batch_tokens:
            raise InputError(
                f"buffer_tokens ({self.buffer_tokens}) must hold at least one batch of "
                f"batch_tokens ({self.batch_tokens})"
            )

    @property
    def forward_blocks(self) -> int:
        return max(1, self.forward_tokens // self.context_size)


def token_blocks(model: LanguageModel, cfg: HarvestConfig, *, repeat: bool) -> TokenBlocks:
    """The packed token blocks that a harvest with this config reads."""
    if cfg.context_size > model.max_context_size:
        raise InputError(
            f"context_size {cfg.context_size} is more than {model.name} can see: "
            f"give at most {model.max_context_size}"
        )
    return TokenBlocks(
        partial(documents, cfg.dataset, cfg.split, cfg.text_column),
        model.tokenizer,
        context_size=cfg.context_size,
        batch_blocks=cfg.forward_blocks,
        prepend_bos=cfg.prepend_bos,
        repeat=repeat,
    )


class ActivationStream:
    """An endless iterator of shuffled batches {hook name: [batch_tokens, width]}.

    The text is repeated when it ends. `state_dict` holds the position in the text, the contents of
    the buffer and the generator, so that a restored stream goes on exactly where it was.
    """

    def __init__(self, model: LanguageModel, cfg: HarvestConfig) -> None:
        for hook_name in cfg.hook_names:
            model.width(hook_name)  # an unknown site is refused before any text is read
        self.cfg = cfg
        self._model = model
        self._special = special_ids(model.tokenizer)
        self._blocks = token_blocks(model, cfg, repeat=True)
        self._buffer = ShuffleBuffer(
            self._rows(),
            capacity_tokens=cfg.buffer_tokens,
            batch_tokens=cfg.batch_tokens,
            seed=cfg.seed,
        )

    def __iter__(self) -> Iterator[Rows]:
        return self

    def __next__(self) -> Rows:
        return next(self._buffer)

    @property
    def n_epochs(self) -> int:
        """Complete passes over the text so far."""
        return self._blocks.n_epochs

    def _rows(self) -> Iterator[Rows]:
        n_epochs_without_rows = self.n_epochs
        for tokens in self._blocks:
            counted = counted_positions(tokens, self._special) | self.cfg.all_positions
            if counted.any():
                n_epochs_without_rows = self.n_epochs
            elif self.n_epochs > n_epochs_without_rows + 1:
                raise InputError(f"{self.cfg.dataset} holds nothing but special tokens")
            found = self._model.activations(tokens, self.cfg.hook_names)
            check_finite(found, tokens, self._model)
            yield {name: x[counted.to(x.device)] for name, x in found.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"blocks": self._blocks.state_dict(), "buffer": self._buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._blocks.load_state_dict(state["blocks"])
        self._buffer.load_state_dict(state["buffer"])


def harvest(model: LanguageModel, cfg: HarvestConfig) -> ActivationStream:
    """Stream the activations of `model` that `cfg` names, shuffled, as long as they are taken."""
    return ActivationStream(model, cfg)


def check_finite(found: Rows, tokens: Tensor, model: LanguageModel) -> None:
    """Raise `InputError` naming the site and the text where an activation is NaN or infinite."""
    for hook_name, x in found.items():
        # One sum is enough to see that something is wrong; only then look for where.
        if torch.isfinite(x.sum(dtype=torch.float32)):
            continue
        bad = (~torch.isfinite(x).all(dim=-1)).nonzero()
        if len(bad):
            block, position = bad[0].tolist()
            context = model.tokenizer.decode(tokens[block, max(0, position - 8) : position + 1])
            raise InputError(
                f"{hook_name} of {model.name} holds NaN or Inf at position {position} of "
                f"{context!r}: load the model in float32 or bfloat16 (--dtype) or check its weights"
            )
