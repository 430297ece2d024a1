"""How far the features of a dictionary are from orthogonal: c_dec, and what is known of its error.

    c_dec = mean over pairs i < j of |cosine(W_dec_i, W_dec_j)|

of Chanin and Garriga-Alonso 2025, "Sparse but wrong" (arXiv 2508.16560 v3): the decoder pairwise
cosine similarity, as `calc_pairwise_cosine_similarity_score` of chanind/sparse-but-wrong-paper
computes it. Features that are never active count there, and here.
"""
# Shapes: n = rows that have a direction, D = draws of the bootstrap.

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.special import gammaln
from torch import Tensor

from sae.analysis.stability.assignment import CHUNK_PAIRS

N_DRAWS = 200


@dataclass(frozen=True)
class Similarity:
    """c_dec of one dictionary."""

    c_dec: float
    standard_error: float
    """Over features, by the bootstrap: features are drawn with replacement, and a feature makes no
    pair with itself. It knows what other features of the same kind would give, and nothing of what
    another training would. NaN where it was not asked for."""


def decoder_similarity(
    W_dec: Float[Tensor, "d_sae d_in"],
    *,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    chunk_pairs: int = CHUNK_PAIRS,
) -> Similarity:
    """c_dec of these rows; norms do not matter, and rows that are 0 have no direction. NaN where
    there are not two with one, or not all are finite.

    `n_draws` 0 leaves the standard error out. No more than `chunk_pairs` cosines are in memory.
    """
    rows = W_dec.detach().to(torch.float32)
    norms = rows.norm(dim=1)
    has_direction = norms != 0  # what is not finite stays, and makes the result so
    unit = rows[has_direction] / norms[has_direction, None]
    n = len(unit)
    if n < 2:
        return Similarity(math.nan, math.nan)
    weights = _weights(n, n_draws, seed).to(unit.device)
    totals = torch.zeros(weights.shape[1], dtype=torch.float64)
    at_once = max(1, chunk_pairs // n)
    for start in range(0, n, at_once):
        cosines = (unit[start : start + at_once] @ unit.T).abs_()
        own = torch.arange(len(cosines), device=unit.device)
        cosines[own, start + own] = 0.0
        of_rows = weights[start : start + at_once] * (cosines @ weights)
        totals += of_rows.to("cpu", torch.float64).sum(dim=0)
    counts = weights.to("cpu", torch.float64)
    means = totals / (counts.sum(dim=0).square() - counts.square().sum(dim=0))
    error = means[1:].std().item() if n_draws > 1 else math.nan
    return Similarity(means[0].item(), error)


def _weights(n: int, n_draws: int, seed: int) -> Float[Tensor, "n D"]:
    """How often each row counts: once, and then as often as it is in each draw."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (n_draws, n), generator=generator)
    counts = torch.zeros(n_draws, n).scatter_add_(1, drawn, torch.ones(n_draws, n))
    return torch.cat([torch.ones(1, n), counts]).T.contiguous()


def random_similarity(d_in: int) -> float:
    """c_dec of random directions: E|cosine| = Gamma(d / 2) / (sqrt(pi) Gamma((d + 1) / 2))."""
    log = gammaln(d_in / 2) - gammaln((d_in + 1) / 2)
    return float(math.exp(log) / math.sqrt(math.pi))
