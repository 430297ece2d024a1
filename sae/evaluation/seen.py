"""What an evaluation sees of a batch, and what it adds up of it, in float64.

Shapes: rows are counted tokens; predictions are those of the model after counted tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.codes import Codes, fire_counts

LEAST_NORM = 1e-4
"""SAELens' guard: a token without a direction has no cosine."""


@dataclass(frozen=True)
class Predictions:
    """The cross-entropies of the model as it is and of the model with something replaced, in nats,
    each [predictions, 1] but for the last."""

    clean: Tensor
    spliced: Tensor
    zero: Tensor
    mean: Tensor
    kl: Float[Tensor, " predictions"]
    """KL(clean || spliced) of the next-token distributions."""
    kl_zero: Float[Tensor, " predictions"] | None = None
    """The same under zero ablation, where projects are compared."""


@dataclass(frozen=True)
class Seen:
    """Activations, what a dictionary makes of them, and what that does to the model."""

    x: Float[Tensor, "rows d_in"]
    x_hat: Float[Tensor, "rows d_in"]
    acts: Float[Tensor, "rows d_sae"] | Codes
    mean: Float[Tensor, " d_in"]
    """Of all rows of the evaluation: the reference that unexplained variance is measured by."""
    predictions: Predictions | None = None
    decoder_norms: Float[Tensor, " d_sae"] | None = None
    """The lengths of the decoder's rows, where they are not all 1."""
    groups: Mapping[str, Int[Tensor, " rows"]] = field(default_factory=dict)
    """The number of each row's group, by what rows are grouped by: its document, say."""
    has_prediction: Bool[Tensor, " rows"] | None = None
    """Of which rows there are predictions; None where of all."""
    everywhere: "Everywhere | None" = None
    """The same batch with every position counted, where projects are compared."""

    @cached_property
    def inputs(self) -> Float[Tensor, "rows d_in"]:
        return self.x.to("cpu", torch.float64)

    @cached_property
    def outputs(self) -> Float[Tensor, "rows d_in"]:
        return self.x_hat.to("cpu", torch.float64)

    @cached_property
    def error(self) -> Float[Tensor, " rows"]:
        return (self.inputs - self.outputs).square().sum(dim=1)

    @cached_property
    def deviation(self) -> Float[Tensor, " rows"]:
        """The squared distance from the mean."""
        return (self.inputs - self.mean).square().sum(dim=1)

    @cached_property
    def norm(self) -> Float[Tensor, " rows"]:
        return self.inputs.norm(dim=1)

    @cached_property
    def norm_hat(self) -> Float[Tensor, " rows"]:
        return self.outputs.norm(dim=1)

    @cached_property
    def has_norm(self) -> Bool[Tensor, " rows"]:
        return self.norm > LEAST_NORM

    @cached_property
    def dot(self) -> Float[Tensor, " rows"]:
        return (self.inputs * self.outputs).sum(dim=1)


@dataclass(frozen=True)
class Everywhere:
    """A batch of text of which every position is seen and replaced, BOS and padding too."""

    seen: Seen
    is_counted: Bool[Tensor, " predictions"]
    """Which of its predictions are those of counted tokens, in the same order."""


# Sums that several metrics are made of -----------------------------------------------------------


@dataclass(frozen=True)
class Total:
    """A sum that is not one of single tokens, such as a number for each feature."""

    of: Callable[[Seen], Any]

    def __call__(self, seen: Seen) -> Any:
        return self.of(seen)


def n_tokens(seen: Seen) -> Tensor:
    return torch.ones(len(seen.x), dtype=torch.float64)


def squared_error(seen: Seen) -> Tensor:
    return seen.error


def squared_deviation(seen: Seen) -> Tensor:
    return seen.deviation


def n_with_norm(seen: Seen) -> Tensor:
    return seen.has_norm.to(torch.float64)


fires = Total(lambda seen: fire_counts(seen.acts).cpu())
"""On how many tokens each feature is active [d_sae]."""


def n_predictions(seen: Seen) -> Tensor:
    return torch.ones(len(_predictions(seen).kl), dtype=torch.float64)


def clean_loss(seen: Seen) -> Tensor:
    return _each(_predictions(seen).clean)


def spliced_loss(seen: Seen) -> Tensor:
    return _each(_predictions(seen).spliced)


def zero_loss(seen: Seen) -> Tensor:
    return _each(_predictions(seen).zero)


def mean_loss(seen: Seen) -> Tensor:
    return _each(_predictions(seen).mean)


def divergence(seen: Seen) -> Tensor:
    return _each(_predictions(seen).kl)


def _predictions(seen: Seen) -> Predictions:
    assert seen.predictions is not None
    return seen.predictions


def _each(per_token: Tensor) -> Tensor:
    return per_token.flatten().to("cpu", torch.float64)
