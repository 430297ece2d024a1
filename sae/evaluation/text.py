"""The text of an evaluation: read once for the mean activation, then batch by batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.types import TextBatch
from sae.evaluation.groups import (
    DOCUMENT,
    FREQUENCY,
    POSITION,
    document_numbers,
    frequency_groups,
    position_groups,
)
from sae.evaluation.splice import Splice, SpliceableModel


class Means:
    """The mean of rows, in float64."""

    def __init__(self) -> None:
        self._total, self._n = torch.zeros((), dtype=torch.float64), 0

    def update(self, rows: Float[Tensor, "rows width"]) -> None:
        self._total = self._total + rows.to("cpu", torch.float64).sum(dim=0)
        self._n += len(rows)

    @property
    def result(self) -> Float[Tensor, " width"]:
        if not self._n:
            raise InputError("no token counts in the evaluation text: give more held-out text")
        return self._total / self._n


@dataclass(frozen=True)
class ReadBatch:
    """A batch of text, and the model on it."""

    splice: Splice
    means: Mapping[str, Float[Tensor, " width"]]
    """Of all rows of the text, by site."""
    groups: Mapping[str, Int[Tensor, " rows"]]
    """The groups of the counted tokens, by what they are grouped by."""
    has_prediction: Bool[Tensor, " rows"]
    """Which counted tokens have another one after them in their block."""


@dataclass(frozen=True)
class Text:
    """The batches of a text, with what had to be known of all of it first."""

    model: SpliceableModel
    batches: Sequence[TextBatch]
    means: Mapping[str, Float[Tensor, " width"]]
    rarity: Int[Tensor, " n_vocab"]
    """The frequency group of each token id."""

    @classmethod
    def read(
        cls, model: SpliceableModel, batches: Sequence[TextBatch], hook_names: Sequence[str]
    ) -> "Text":
        """Read it for the first time: the mean at each site, and how often each token occurs."""
        means = {name: Means() for name in hook_names}
        counts = torch.zeros(0, dtype=torch.int64)
        for tokens, counted, _ in batches:
            found = model.activations(tokens, [*hook_names])
            for name, its in means.items():
                its.update(found[name][counted.to(found[name].device)])
            counts = _sum(counts, tokens[counted].cpu().bincount())
        results = {name: its.result for name, its in means.items()}
        return cls(model, batches, results, frequency_groups(counts))

    def __iter__(self) -> Iterator[ReadBatch]:
        n_blocks = 0
        for tokens, counted, documents in self.batches:
            tokens, counted = tokens.cpu(), counted.cpu()
            positions = torch.arange(tokens.shape[1]).expand_as(tokens)
            of_tokens = {
                DOCUMENT: document_numbers(documents, counted, n_blocks),
                POSITION: position_groups(positions),
            }
            groups = {name: of.cpu()[counted] for name, of in of_tokens.items()}
            groups[FREQUENCY] = self.rarity[tokens[counted]]
            is_last = positions[counted] == tokens.shape[1] - 1
            splice = Splice(self.model, [*self.means], tokens, counted)
            yield ReadBatch(splice, self.means, groups, ~is_last)
            n_blocks += len(tokens)


def _sum(a: Tensor, b: Tensor) -> Tensor:
    n = max(len(a), len(b))
    return sum((torch.nn.functional.pad(of, (0, n - len(of))) for of in (a, b)), b.new_zeros(n))
