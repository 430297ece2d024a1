"""Stream a model's activations at several sites from one forward pass, in shuffled batches."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from activation_cache.common.errors import InputError, refuse_below
from activation_cache.common.schema import convert
from activation_cache.common.types import OnNaN
from activation_cache.model.language_model import LanguageModel
from activation_cache.stream.shuffle import Rows, ShuffleBuffer
from activation_cache.stream.source import ActivationSource, SourceConfig
from activation_cache.text.blocks import TokenBatch
from activation_cache.text.config import Split

MOST_SKIPPED = 0.01
"""The share of the rows that may be left out as not finite."""

SKIPPED_OF_ROWS = 100_000
"""The share is not judged by fewer rows."""


@dataclass(frozen=True, kw_only=True)
class HarvestConfig(SourceConfig):
    """Which activations to stream, from which text, and how well shuffled."""

    split: Split = field(default="train", metadata={"setting": None})
    batch_tokens: int = 1024
    """Activation vectors in each batch, and so in each training step."""
    buffer_tokens: int = 65_536
    """Activation vectors in the shuffle buffer. More means a better shuffle and more memory; of a
    cache, it is the window that is read."""
    seed: int = field(default=0, metadata={"setting": "data_seed"})
    """Seed of the order of the activations."""
    on_nan: OnNaN = "stop"
    """On NaN or Inf in activations or gradients: stop the run, or skip. `skip` leaves rows of
    activations out unless they are more than one in a hundred, and a hundred batches at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(1, batch_tokens=self.batch_tokens, buffer_tokens=self.buffer_tokens)
        convert(OnNaN, self.on_nan, "on_nan")
        if self.buffer_tokens < self.batch_tokens:
            raise InputError(
                f"buffer_tokens ({self.buffer_tokens}) must hold at least one batch of "
                f"batch_tokens ({self.batch_tokens})"
            )


class ActivationStream:
    """An endless iterator of shuffled batches {hook name: [batch_tokens, width]}.

    The text is repeated when it ends. `state_dict` holds the position in the text, the contents of
    the buffer and the generator, so that a restored stream continues exactly where it was. Where
    the text or the model fails, what was not served yet is kept: the next call tries again.
    """

    def __init__(self, model: LanguageModel, cfg: HarvestConfig) -> None:
        self.cfg = cfg
        self._source = ActivationSource(model, cfg)
        self._blocks = self._source.token_blocks(cfg.split, repeat=True)
        self._ahead: TokenBatch | None = None  # after the cursor, and not in the buffer yet
        self._cursor: dict[str, int] = {}
        self._n_rows = 0
        self.pass_rows: int | None = None
        """Rows of a pass over the text, to within a forward pass; None until one has ended."""
        self.n_skipped_rows = 0
        """Rows of the model that held NaN or Inf and were left out."""
        self._buffer = ShuffleBuffer(
            iter(self._rows, None),  # which can be asked again when it has raised
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

    def _rows(self) -> Rows:
        """The rows of the next forward pass."""
        if self._ahead is None:
            self._cursor = self._blocks.state_dict()
            was_first_pass = self.n_epochs == 0
            self._ahead = self._next_counted_batch()
            if was_first_pass and self.n_epochs:
                self._note_end_of_pass(self._ahead)
        rows = self._source.rows(self._ahead, on_nan=self.cfg.on_nan)
        n_rows = int(self._source.counted(self._ahead.tokens).sum())
        self._ahead = None
        self._n_rows += n_rows
        self.n_skipped_rows += n_rows - len(next(iter(rows.values())))
        if self._n_rows >= SKIPPED_OF_ROWS and self.n_skipped_rows > MOST_SKIPPED * self._n_rows:
            raise InputError(
                f"{self.n_skipped_rows:,} of {self._n_rows:,} rows of {', '.join(rows)} held NaN "
                f"or Inf, more than {MOST_SKIPPED:.0%}: give another --dtype, or fix the weights"
            )
        return rows

    def _note_end_of_pass(self, batch: TokenBatch) -> None:
        n_rows = self._n_rows + int(self._source.counted(batch.tokens).sum())
        self.pass_rows = max(1, n_rows // self.n_epochs)  # a short text ends several times at once
        warnings.warn(
            f"the text {self.cfg.source} has ended after {self.pass_rows:,} activation "
            f"vectors and is repeated: give more text, or train on fewer tokens",
            stacklevel=3,
        )

    def _next_counted_batch(self) -> TokenBatch:
        """The next token blocks of which any position counts."""
        last_epoch = self.n_epochs + 1
        while self.n_epochs <= last_epoch:
            batch = self._blocks.next_batch()
            if self._source.counted(batch.tokens).any():
                return batch
        raise InputError(f"{self.cfg.source} holds nothing but special tokens")

    def state_dict(self) -> dict[str, Any]:
        return {
            "blocks": self._blocks.state_dict() if self._ahead is None else self._cursor,
            "text": self._blocks.record.state_dict(),
            "buffer": self._buffer.state_dict(),
            "n_rows": self._n_rows,
            "pass_rows": self.pass_rows,
            "n_skipped_rows": self.n_skipped_rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ahead = None
        if "text" in state:  # which older versions did not record
            self._blocks.record.load_state_dict(state["text"])
        self._blocks.load_state_dict(state["blocks"])
        self._buffer.load_state_dict(state["buffer"])
        self._n_rows = state["n_rows"]
        self.pass_rows = state.get("pass_rows")  # which older versions did not save
        self.n_skipped_rows = state["n_skipped_rows"]


def harvest(model: LanguageModel, cfg: HarvestConfig) -> ActivationStream:
    """Stream the activations of `model` that `cfg` names, shuffled, as long as they are taken."""
    return ActivationStream(model, cfg)
