"""Expectations over very sparse features, from tokens that are chosen by how many are active.

At p = 0.001 nearly all plain samples are empty, and those that are not decide everything. Here the
number k of active features is given: E[f] = sum over k of P(k) E[f | k].
"""
# Shapes: S = settings, n = features, B = tokens.

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.toy.features import Independent


def stratified(
    features: Independent, n_tokens: int, generator: torch.Generator
) -> tuple[Float[Tensor, "S n {n_tokens}"], Float[Tensor, "S {n_tokens}"]]:
    """Tokens and their weights: the weighted sum of f is an unbiased estimate of E[f].

    A stratum gets tokens in proportion to k and the root of its probability; one empty token is
    enough for k = 0. Strata of less than about 1 / n_tokens^2 get none: weights sum to 1 but for
    these.
    """
    p = torch.atleast_2d(features.probabilities).double()
    table = poisson_binomial(p)
    k = _active_counts(table[:, -1], n_tokens)
    taken = torch.zeros_like(table[:, -1]).scatter_add_(1, k, torch.ones(k.shape).double())
    weights = (table[:, -1] / taken.clamp_min(1)).gather(1, k)
    active = _patterns(p, table, k, generator)
    strengths = torch.rand(p.shape[1], n_tokens, generator=generator)
    if features.signed:
        strengths = 2 * strengths - 1
    return active.float() * strengths, weights.float()


def poisson_binomial(p: Float[Tensor, "S n"]) -> Float[Tensor, "S f k"]:
    """[S, n + 1, n + 1]: at [f, k], the probability that k of the first f features are active."""
    n = p.shape[1]
    table = p.new_zeros(len(p), n + 1, n + 1)
    table[:, 0, 0] = 1
    for f in range(n):
        table[:, f + 1] = table[:, f] * (1 - p[:, f, None])
        table[:, f + 1, 1:] += table[:, f, :-1] * p[:, f, None]
    return table


def _active_counts(
    probabilities: Float[Tensor, "S k"], n_tokens: int
) -> Int[Tensor, "S {n_tokens}"]:
    """How many features are active in each token, in rising order."""
    shares = probabilities.sqrt() * torch.arange(probabilities.shape[1])
    shares[:, 0] = 2 / n_tokens * shares.sum(dim=1)
    upper = (shares / shares.sum(dim=1, keepdim=True)).cumsum(dim=1)
    middles = (torch.arange(n_tokens).double() + 0.5) / n_tokens
    k = torch.searchsorted(upper.contiguous(), middles.expand(len(upper), -1).contiguous())
    return k.clamp_max(probabilities.shape[1] - 1)


def _patterns(
    p: Float[Tensor, "S n"],
    table: Float[Tensor, "S f j"],
    k: Int[Tensor, "S B"],
    generator: torch.Generator,
) -> Float[Tensor, "S n B"]:
    """Which features are active, given how many: from the last to the first, each with the
    probability that it has given how many are left for it and those before it."""
    left = k.clone()
    active = torch.zeros(*p.shape, k.shape[1], dtype=torch.float64)
    for f in range(p.shape[1] - 1, -1, -1):
        of_both = p[:, f, None] * table[:, f].gather(1, (left - 1).clamp_min(0))
        chance = of_both / table[:, f + 1].gather(1, left) * (left > 0)
        is_on = torch.rand(k.shape[1], generator=generator).double() < chance
        active[:, f] = is_on
        left -= is_on.long()
    return active
