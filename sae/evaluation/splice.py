"""What the model predicts when an activation is replaced: by its reconstruction, or by zero."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_cache.common.types import Edit


@runtime_checkable
class SpliceableModel(Protocol):
    """A language model that can be read and edited at hook names."""

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


class Splice:
    """The model on one batch of text, as it is and under replacements at one site.

    Only the counted positions are replaced, by zero and mean ablation as well, and a prediction
    counts where its last input token is counted.
    """

    def __init__(
        self,
        model: SpliceableModel,
        hook_name: str,
        tokens: Int[Tensor, "batch pos"],
        counted: Bool[Tensor, "batch pos"],
    ) -> None:
        self._model = model
        self._hook_name = hook_name
        self._tokens, self._counted = tokens.to(model.device), counted.to(model.device)
        self._predicted = self._counted[:, :-1]
        self._targets = self._tokens[:, 1:][self._predicted][:, None]

    @torch.no_grad()
    def log_probs(self, replacement: Edit | None = None) -> Float[Tensor, "predictions d_vocab"]:
        """Of the next tokens; `replacement` maps the counted rows [rows, width] to others."""
        edits = None if replacement is None else {self._hook_name: self._at_counted(replacement)}
        logits = self._model.logits(self._tokens, edits)[:, :-1][self._predicted]
        return logits.to(torch.float32).log_softmax(dim=-1)

    def loss(self, log_probs: Float[Tensor, "predictions d_vocab"]) -> Tensor:
        """The cross-entropy of each prediction [predictions, 1], in nats."""
        return -log_probs.gather(1, self._targets)

    def _at_counted(self, replacement: Edit) -> Edit:
        """An edit of [batch, pos, width] that replaces the counted positions only."""

        def edit(x: Tensor) -> Tensor:
            edited = x.clone()
            edited[self._counted] = replacement(x[self._counted]).to(x.dtype)
            return edited

        return edit


def kl_divergence(
    clean: Float[Tensor, "predictions d_vocab"], edited: Float[Tensor, "predictions d_vocab"]
) -> Float[Tensor, " predictions"]:
    """KL(clean || edited) of log-probabilities, in nats."""
    return (clean.exp() * (clean - edited)).sum(dim=1)
