"""The numbers of an evaluation, each with the convention that it was measured by."""

import json
import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

CONVENTIONS: dict[str, str] = {
    "n_tokens": "counted tokens: held-out text, without position 0 and special tokens unless asked",
    "fvu": "sum |x - x_hat|^2 / sum |x - mean|^2, both sums over all tokens, divided once (pooled, "
    "centred)",
    "explained_variance": "1 - fvu",
    "explained_variance_legacy": "mean over tokens of 1 - |x - x_hat|^2 / |x - mean|^2, with the "
    "mean of all tokens; SAELens before 2026 and SAEBench print it with each batch's mean",
    "mse": "|x - x_hat|^2 summed over d_in, mean over tokens",
    "cosine": "mean over tokens of the cosine of x and x_hat; without tokens of |x| < 1e-4",
    "l2_ratio": "mean over tokens of |x_hat| / |x|; without tokens of |x| < 1e-4",
    "relative_reconstruction_bias": "E|x_hat|^2 / E[x . x_hat] (Rajamanoharan et al. 2024, "
    "eq. 10); below 1 is shrinkage",
    "l0": "mean number of features that are not 0",
    "l1": "mean sum of the features' absolute values; decoder rows have unit norm",
    "dead": "features that fired on none of the n_tokens",
    "dead_fraction": "dead / d_sae",
    "d_sae": "number of features",
    "ce_clean": "cross-entropy of the unchanged model, nats per token, over predictions whose last "
    "input token is counted",
    "ce_spliced": "the same with x replaced by x_hat at the counted positions",
    "ce_zero": "the same with x replaced by 0 at the counted positions",
    "ce_mean": "the same with x replaced by the mean at the counted positions",
    "delta_ce": "ce_spliced - ce_clean, nats; above 0 is worse",
    "kl": "KL(clean || spliced) of the next-token distributions, nats, mean over tokens",
    "ce_recovered": "(ce_zero - ce_spliced) / (ce_zero - ce_clean)",
    "ce_recovered_mean": "(ce_mean - ce_spliced) / (ce_mean - ce_clean)",
}

LOG10_DENSITY_EDGES = [edge / 4 for edge in range(-28, 1)]
"""Bins of a quarter of a decade from 1e-7 to 1."""


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """What an evaluation found; `conventions` says how each number is defined.

    The cross-entropies are NaN where no model was given.
    """

    n_tokens: int
    fvu: float
    explained_variance: float
    explained_variance_legacy: float
    mse: float
    cosine: float
    l2_ratio: float
    relative_reconstruction_bias: float
    l0: float
    l1: float
    dead: int
    dead_fraction: float
    d_sae: int
    ce_clean: float = float("nan")
    ce_spliced: float = float("nan")
    ce_zero: float = float("nan")
    ce_mean: float = float("nan")
    delta_ce: float = float("nan")
    kl: float = float("nan")
    ce_recovered: float = float("nan")
    ce_recovered_mean: float = float("nan")
    density: Float[Tensor, " d_sae"] = field(repr=False, compare=False)
    """The share of the tokens on which each feature fired."""

    @property
    def conventions(self) -> dict[str, str]:
        return {name: CONVENTIONS[name] for name in self.metrics()}

    def metrics(self) -> dict[str, int | float]:
        """The numbers by name, without those that were not measured or are not finite."""
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "density"}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    def to_json(self) -> str:
        """`eval.json`: flat metrics, their conventions, and the histogram of densities."""
        firing = self.density[self.density > 0].log10().to(torch.float32)
        edges = torch.tensor(LOG10_DENSITY_EDGES)
        counts = torch.histogram(firing.clamp(edges[0], edges[-1]), edges).hist
        density: dict[str, Any] = {
            "log10_edges": LOG10_DENSITY_EDGES,
            "counts": [int(count) for count in counts],
        }
        return json.dumps(
            {"metrics": self.metrics(), "conventions": self.conventions, "density": density},
            indent=2,
        )
