"""What the model loses when an activation is replaced: by its reconstruction, zero, or the mean."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

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


class SplicedCrossEntropy:
    """Accumulates the cross-entropy of the clean model, and of the model under replacements.

    Several reconstructions share the passes of the clean model and of the ablations. Only the
    counted positions are replaced, by zero and mean ablation as well, and a prediction counts where
    its last input token is counted. Sums are over tokens, in float64.
    """

    def __init__(self, model: SpliceableModel, hook_name: str) -> None:
        self.model = model
        self.hook_name = hook_name
        self.n_predictions = 0
        self._sums: dict[str, float] = {}
        self._spliced_sums: list[dict[str, float]] = []

    def update(
        self,
        tokens: Int[Tensor, "batch pos"],
        counted: Bool[Tensor, "batch pos"],
        reconstructions: Sequence[Edit],
        ablations: Mapping[str, Edit],
    ) -> None:
        """Add a batch of text. Replacements map the counted rows [rows, width] to others.

        `ablations` has at least `zero` and `mean`.
        """
        tokens, counted = tokens.to(self.model.device), counted.to(self.model.device)
        predicted = counted[:, :-1]
        clean = self._log_probs(tokens, predicted, None)
        targets = tokens[:, 1:][predicted][:, None]
        _add(self._sums, "ce_clean", -clean.gather(1, targets))
        for name, ablation in ablations.items():
            edited = self._log_probs(tokens, predicted, _at(counted, ablation))
            _add(self._sums, f"ce_{name}", -edited.gather(1, targets))
        if not self._spliced_sums:
            self._spliced_sums = [{} for _ in reconstructions]
        for sums, reconstruction in zip(self._spliced_sums, reconstructions, strict=True):
            edited = self._log_probs(tokens, predicted, _at(counted, reconstruction))
            _add(sums, "ce_spliced", -edited.gather(1, targets))
            _add(sums, "kl", (clean.exp() * (clean - edited)).sum(dim=1))
        self.n_predictions += int(predicted.sum())

    def results(self) -> list[dict[str, Any]]:
        """For each reconstruction: cross-entropies in nats per token, and what they say of it."""
        return [self._result({**self._sums, **sums}) for sums in self._spliced_sums]

    def _result(self, sums: Mapping[str, float]) -> dict[str, Any]:
        means = {name: total / self.n_predictions for name, total in sums.items()}
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


def _add(sums: dict[str, float], name: str, per_token: Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + per_token.to(torch.float64).sum().item()


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
