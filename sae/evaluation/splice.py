"""What the model predicts when an activation is replaced: by its reconstruction, or by zero."""

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_cache.common.types import Edit
from sae.inside.positions import at

ALL = slice(None)


@runtime_checkable
class SpliceableModel(Protocol):
    """A language model that can be read and edited at hook names.

    One that also has `before_unembedding(tokens, edits)` and `unembed(rows)` is evaluated in little
    memory, whatever its vocabulary.
    """

    @property
    def device(self) -> torch.device: ...

    def activations(
        self, tokens: Tensor, hook_names: list[str]
    ) -> Mapping[str, Float[Tensor, "batch pos _"]]:
        """The activations at the named sites."""
        ...

    def logits(
        self, tokens: Tensor, edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits, with the activations at the named sites replaced."""
        ...


CHUNK_NUMBERS = 2**24
"""Log-probabilities that are held at once: 64 MB of them, whatever the vocabulary."""


class Splice:
    """The model on one batch of text, as it is and under replacements at one site.

    Only the counted positions are replaced, by zero and mean ablation as well, and a prediction
    counts where its last input token is counted. The model is run up to its unembedding; that
    follows for a few predictions at a time (`parts`), since a vocabulary may be large.
    """

    def __init__(
        self,
        model: SpliceableModel,
        hook_name: str,
        tokens: Int[Tensor, "batch pos"],
        counted: Bool[Tensor, "batch pos"],
    ) -> None:
        self._hook_name = hook_name
        self._tokens, self._counted = tokens.to(model.device), counted.to(model.device)
        self._predicted = self._counted[:, :-1]
        self._targets = self._tokens[:, 1:][self._predicted][:, None]
        # A model of the user's own may have its logits alone: they are the last layer then.
        self._run = getattr(model, "before_unembedding", model.logits)
        self._unembed = getattr(model, "unembed", lambda rows: rows)

    @torch.no_grad()
    def last_layer(self, replacement: Edit | None = None) -> Float[Tensor, "predictions width"]:
        """What the next tokens are predicted from; `replacement` maps the counted rows
        [rows, width] to others."""
        edits = None if replacement is None else {self._hook_name: at(self._counted, replacement)}
        return self._run(self._tokens, edits)[:, :-1][self._predicted]

    @torch.no_grad()
    def log_probs(
        self, last_layer: Float[Tensor, "predictions width"]
    ) -> Float[Tensor, "predictions d_vocab"]:
        """Of the next tokens, by what they are predicted from: of all, or of a part."""
        return self._unembed(last_layer).to(torch.float32).log_softmax(dim=-1)

    @torch.no_grad()
    def loss(self, log_probs: Float[Tensor, "predictions d_vocab"], part: slice = ALL) -> Tensor:
        """The cross-entropy of each prediction [predictions, 1] of a part, in nats."""
        return -log_probs.gather(1, self._targets[part])

    def parts(self, last_layer: Float[Tensor, "predictions width"]) -> Iterator[slice]:
        """The predictions in parts whose log-probabilities fit into memory; one at least."""
        n, size = len(last_layer), 1
        if n:
            d_vocab = self._unembed(last_layer[:1]).shape[-1]
            size = max(1, CHUNK_NUMBERS // d_vocab)
        return (slice(start, start + size) for start in range(0, max(n, 1), size))


def kl_divergence(
    clean: Float[Tensor, "predictions d_vocab"], edited: Float[Tensor, "predictions d_vocab"]
) -> Float[Tensor, " predictions"]:
    """KL(clean || edited) of log-probabilities, in nats."""
    return (clean.exp() * (clean - edited)).sum(dim=1)
