"""Stream a model's activations at several sites from one forward pass, in shuffled batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from activation_cache.errors import InputError
from activation_cache.models import LanguageModel
from activation_cache.shuffle import Rows, ShuffleBuffer
from activation_cache.source import ActivationSource, SourceConfig
from activation_cache.text import Split


@dataclass(frozen=True, kw_only=True)
class HarvestConfig(SourceConfig):
    """Which activations to stream, from which text, and how well shuffled."""

    split: Split = "train"
    batch_tokens: int = 1024
    """Rows in each batch served."""
    buffer_tokens: int = 65_536
    """Rows held in the shuffle buffer; more means a better shuffle and more memory."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_tokens", "buffer_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.buffer_tokens < self.batch_tokens:
            raise InputError(
                f"buffer_tokens ({self.buffer_tokens}) must hold at least one batch of "
                f"batch_tokens ({self.batch_tokens})"
            )


class ActivationStream:
    """An endless iterator of shuffled batches {hook name: [batch_tokens, width]}.

    The text is repeated when it ends. `state_dict` holds the position in the text, the contents of
    the buffer and the generator, so that a restored stream goes on exactly where it was.
    """

    def __init__(self, model: LanguageModel, cfg: HarvestConfig) -> None:
        self.cfg = cfg
        self._source = ActivationSource(model, cfg)
        self._blocks = self._source.token_blocks(cfg.split, repeat=True)
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
            if self._source.counted(tokens).any():
                n_epochs_without_rows = self.n_epochs
            elif self.n_epochs > n_epochs_without_rows + 1:
                raise InputError(f"{self.cfg.dataset} holds nothing but special tokens")
            yield self._source.rows(tokens)

    def state_dict(self) -> dict[str, Any]:
        return {"blocks": self._blocks.state_dict(), "buffer": self._buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._blocks.load_state_dict(state["blocks"])
        self._buffer.load_state_dict(state["buffer"])


def harvest(model: LanguageModel, cfg: HarvestConfig) -> ActivationStream:
    """Stream the activations of `model` that `cfg` names, shuffled, as long as they are taken."""
    return ActivationStream(model, cfg)
