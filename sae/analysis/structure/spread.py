"""How numbers of features are spread: their mean and some quantiles."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Spread:
    """Over the features that have the number; NaN where none has it."""

    mean: float
    quantiles: Mapping[float, float]
    """By their probability, from the smallest value at 0 to the largest at 1."""
    n: int
    """Features that have the number."""

    @classmethod
    def of(cls, values: Float[Tensor, " n"]) -> "Spread":
        """Of these values, without those that are NaN."""
        known = values[~values.isnan()].to("cpu", torch.float64)
        if not len(known):
            return cls(float("nan"), dict.fromkeys(QUANTILES, float("nan")), 0)
        # `torch.quantile` refuses more than 16M values; no dictionary has as many features.
        found = torch.quantile(known, torch.tensor(QUANTILES, dtype=torch.float64))
        quantiles = dict(zip(QUANTILES, found.tolist(), strict=True))
        return cls(known.mean().item(), quantiles, len(known))
