"""What the model loses when an activation is replaced: by its reconstruction, zero, or the mean."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Edit = Callable[[Tensor], Tensor]


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


class SplicedCrossEntropy:
    """Accumulates the cross-entropy of the clean model and of the model under each replacement.

    Only the counted positions are replaced, by zero and mean ablation as well, and a prediction
    counts where its last input token is counted. Sums are over tokens, in float64.
    """

    def __init__(self, model: SpliceableModel, hook_name: str) -> None:
        self.model = model
        self.hook_name = hook_name
        self.n_predictions = 0
        self._sums: dict[str, float] = {}

    def update(
        self,
        tokens: Int[Tensor, "batch pos"],
        counted: Bool[Tensor, "batch pos"],
        replacements: Mapping[str, Edit],
    ) -> None:
        """Add a batch of text. Replacements map the counted rows [rows, width] to others."""
        tokens, counted = tokens.to(self.model.device), counted.to(self.model.device)
        predicted = counted[:, :-1]
        clean = self._log_probs(tokens, predicted, None)
        targets = tokens[:, 1:][predicted][:, None]
        self._add("ce_clean", -clean.gather(1, targets))
        for name, replacement in replacements.items():
            edited = self._log_probs(tokens, predicted, _at(counted, replacement))
            self._add(f"ce_{name}", -edited.gather(1, targets))
            if name == "spliced":
                self._add("kl", (clean.exp() * (clean - edited)).sum(dim=1))
        self.n_predictions += int(predicted.sum())

    def result(self) -> dict[str, Any]:
        """Cross-entropies in nats per token, and what they say about the replacements."""
        means = {name: total / self.n_predictions for name, total in self._sums.items()}
        means["delta_ce"] = means["ce_spliced"] - means["ce_clean"]
        means["ce_recovered"] = _recovered(means, "ce_zero")
        means["ce_recovered_mean"] = _recovered(means, "ce_mean")
        return means

    @torch.no_grad()
    def _log_probs(
        self, tokens: Tensor, predicted: Tensor, edit: Edit | None
    ) -> Float[Tensor, "rows d_vocab"]:
        edits = None if edit is None else {self.hook_name: edit}
        logits = self.model.logits(tokens, edits)[:, :-1][predicted]
        return logits.to(torch.float32).log_softmax(dim=-1)

    def _add(self, name: str, per_token: Tensor) -> None:
        total = per_token.to(torch.float64).sum().item()
        self._sums[name] = self._sums.get(name, 0.0) + total


def _at(counted: Tensor, replacement: Edit) -> Edit:
    """An edit of [batch, pos, width] that replaces the counted positions only."""

    def edit(x: Tensor) -> Tensor:
        edited = x.clone()
        edited[counted] = replacement(x[counted]).to(x.dtype)
        return edited

    return edit


def _recovered(means: Mapping[str, float], ablation: str) -> float:
    """The share of what the ablation costs that the reconstruction gets back."""
    gap = means[ablation] - means["ce_clean"]
    return (means[ablation] - means["ce_spliced"]) / gap if gap else float("nan")
