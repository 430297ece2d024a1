"""What the model predicts when an activation is replaced: by its reconstruction, or by zero."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import partial
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

    One that also has `shared_pass(tokens, hook_names)` and `unembed(rows)` is evaluated faster, and
    in little memory whatever its vocabulary.
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


class Passes(Protocol):
    """A forward pass on a batch, and edited ones on the same: `LanguageModel.shared_pass`."""

    @property
    def activations(self) -> Mapping[str, Float[Tensor, "batch pos _"]]: ...

    @property
    def clean(self) -> Float[Tensor, "batch pos _"]:
        """What `unembed` makes logits of."""
        ...

    def edited(self, hook_name: str, edit: Edit) -> Float[Tensor, "batch pos _"]: ...


class WholePasses:
    """The same of a model of the user's own, each time from the text: logits are its last layer."""

    def __init__(self, model: SpliceableModel, tokens: Tensor, hook_names: Sequence[str]) -> None:
        self._model, self._tokens = model, tokens
        self.activations = model.activations(tokens, [*hook_names])
        self.clean = model.logits(tokens)

    def edited(self, hook_name: str, edit: Edit) -> Tensor:
        return self._model.logits(self._tokens, {hook_name: edit})


CHUNK_NUMBERS = 2**24
"""Log-probabilities that are held at once: 64 MB of them, whatever the vocabulary."""


class Splice:
    """The model on one batch of text, as it is and under replacements at some sites.

    Only the counted positions are replaced, by zero and mean ablation as well, and a prediction
    counts where its last input token is counted. The model is run up to its unembedding; that
    follows for a few predictions at a time (`parts`), since a vocabulary may be large.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: SpliceableModel,
        hook_names: Sequence[str],
        tokens: Int[Tensor, "batch pos"],
        counted: Bool[Tensor, "batch pos"],
    ) -> None:
        self._tokens = tokens = tokens.to(model.device)
        self._count(counted.to(model.device))
        shared_pass = getattr(model, "shared_pass", partial(WholePasses, model))
        self._passes: Passes = shared_pass(tokens, hook_names)
        self._unembed = getattr(model, "unembed", lambda rows: rows)

    def _count(self, counted: Bool[Tensor, "batch pos"]) -> None:
        self._counted, self._predicted = counted, counted[:, :-1]
        self._targets = self._tokens[:, 1:][self._predicted][:, None]

    def everywhere(self) -> "Splice":
        """The same pass, with every position counted."""
        found = copy(self)
        found._count(torch.ones_like(self._counted))
        return found

    @property
    def is_counted(self) -> Bool[Tensor, " positions"]:
        """Which of the predictions of `everywhere` are of this."""
        return self._predicted.flatten().cpu()

    def rows(self, hook_name: str) -> Float[Tensor, "rows width"]:
        """The activations at the counted positions of a site."""
        return self._passes.activations[hook_name][self._counted]

    @torch.no_grad()
    def last_layer(
        self, hook_name: str | None = None, rows: Float[Tensor, "rows d_in"] | None = None
    ) -> Float[Tensor, "predictions width"]:
        """What the next tokens are predicted from: as the model is, or with these rows in place of
        the counted ones of a site."""
        if hook_name is None:
            return self._of_predictions(self._passes.clean)
        edit = at(self._counted, lambda _: rows)
        return self._of_predictions(self._passes.edited(hook_name, edit))

    def _of_predictions(self, last_layer: Tensor) -> Tensor:
        return last_layer[:, :-1][self._predicted]

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
