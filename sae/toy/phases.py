"""Phase diagrams of toy models with one feature more than they have dimensions.

Elhage et al. 2022, section 3. Features are active with probability p and then uniform in [0, 1],
independently. The model is relu(W'W x + b), and which of a few ideal solutions has the least loss
depends on p and on the importance of the last feature, those of the others being 1. Losses here are
sums over the features of importance * E[(output - x)^2].

A feature that is ignored (W_f = 0) is replaced by its mean p / 2, at the cost of its variance

    v(p) = E[x^2] - E[x]^2 = p / 3 - p^2 / 4.

One with a dimension of its own costs nothing. Two that share a dimension as opposites, W = [1, -1]
and b = 0, cost nothing while one of them is active, as the ReLU cuts what reaches the other. When
both are, with probability p^2, the outputs are relu(x_1 - x_2) and relu(x_2 - x_1), and each is off
by min(x_1, x_2). The density of the lesser of two uniform numbers is 2 (1 - t), so that

    E[min^2] = 2 (1/3 - 1/4) = 1/6,  and the pair costs  p^2 (I_1 + I_2) / 6.

With two features, I = (1, I_2), in one dimension that makes

    ignore 2: I_2 v(p)      ignore 1: v(p)      antipodal: p^2 (1 + I_2) / 6.

For I_2 <= 1 the antipodal pair has to beat "ignore 2": p (1 + I_2) / 6 < I_2 (1/3 - p/4), that is
p < 4 I_2 / (2 + 5 I_2). For I_2 >= 1 it has to beat "ignore 1": p < 4 / (2 I_2 + 5). On the
boundary the losses cross with slopes in p of which one is (4 - 3p) / (2 - 3p) >= 2 times the other:
the least loss has a kink, which makes the phase change one of the first order.

With three features, I = (1, 1, I_3), in two dimensions, either one is ignored or two share:

    ignore 3: I_3 v(p)                      ignore 1, or 2: v(p)
    3 opposite 1, or 2: p^2 (1 + I_3) / 6   1 opposite 2: p^2 / 3.
"""
# Shapes: n = features, m = hidden dimensions, k = points, B = tokens.

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TWO = ("ignore 2", "ignore 1", "antipodal")
THREE = ("ignore 3", "ignore 1", "3 opposite 1", "1 opposite 2")
SOLUTIONS = {2: TWO, 3: THREE}
"""The ideal solutions for so many features. Of three, 2 is as important as 1, which stands for
both."""
OTHER = -1
"""The label of a model that is like none of them."""

IGNORED, KEPT, SHARED = 0.3, 0.6, 0.5
"""A feature is ignored below the first norm. What is not is above the second where it has a
dimension of its own, and above the third where it shares one."""
OPPOSITE = -0.9
"""Features with a cosine below this one are opposites."""


def variance(p: Float[Tensor, "*i"]) -> Float[Tensor, "*i"]:
    """v(p): of one feature's strength."""
    return p / 3 - p.square() / 4


def ideal_losses(
    n_features: int, importance: Float[Tensor, "*i"], p: Float[Tensor, "*i"]
) -> Float[Tensor, "*i solutions"]:
    """Of the `SOLUTIONS` for two or three features, the last of which has this importance."""
    ignored, pair = (importance * variance(p), variance(p)), p.square() * (1 + importance) / 6
    pairs = {2: (pair,), 3: (pair, p.square() / 3)}[n_features]
    return torch.stack((*ignored, *pairs), dim=-1)


def boundary(importance: Float[Tensor, "*i"]) -> Float[Tensor, "*i"]:
    """The p below which two features share the one dimension as opposites."""
    below_one = 4 * importance / (2 + 5 * importance)
    return torch.where(importance <= 1, below_one, 4 / (2 * importance + 5))


def margin(losses: Float[Tensor, "*i solutions"]) -> Float[Tensor, "*i"]:
    """By how much of the least loss the second least is larger."""
    least = losses.sort(dim=-1).values
    return least[..., 1] / least[..., 0] - 1


def label(W: Float[Tensor, "*i m n"]) -> Int[Tensor, "*i"]:
    """Which of the `SOLUTIONS` for two or three features each model is, or `OTHER`."""
    holds = {2: _is_two, 3: _is_three}[W.shape[-1]](W)
    labels = torch.full(W.shape[:-2], OTHER, device=W.device)
    for index, is_solution in enumerate(holds):
        labels[is_solution] = index
    return labels


def _is_two(W: Float[Tensor, "*i 1 2"]) -> tuple[Bool[Tensor, "*i"], ...]:
    first, second = W[..., 0, :].abs().unbind(dim=-1)
    return (
        (second < IGNORED) & (first > KEPT),
        (first < IGNORED) & (second > KEPT),
        (first > SHARED) & (second > SHARED) & (W.prod(dim=-1)[..., 0] < 0),
    )


def _is_three(W: Float[Tensor, "*i 2 3"]) -> tuple[Bool[Tensor, "*i"], ...]:
    """In dense models all mixtures of "ignore 1" and "ignore 2" have the same loss, as the two are
    as important as each other. They have one direction, like a pair that shares, but a square of 1
    between them in place of 2."""
    lengths = W.norm(dim=-2)
    unit = W / lengths[..., None, :].clamp_min(1e-12)
    cosines = unit.mT @ unit
    first, second, third = lengths.unbind(dim=-1)
    is_mixture = (cosines[..., 0, 1].abs() > -OPPOSITE) & (first.square() + second.square() < 1.5)
    one_ignored = (torch.minimum(first, second) < IGNORED) & (torch.maximum(first, second) > KEPT)
    others_share = (lengths > SHARED).all(dim=-1)
    with_third = torch.minimum(cosines[..., 0, 2], cosines[..., 1, 2]) < OPPOSITE
    return (
        (third < IGNORED) & (first > KEPT) & (second > KEPT),
        (third > KEPT) & (one_ignored | is_mixture),
        others_share & with_third,
        others_share & (cosines[..., 0, 1] < OPPOSITE) & ~is_mixture,
    )


def every_pattern(
    p: Float[Tensor, "*i n"], points: int
) -> tuple[Float[Tensor, "n B"], Float[Tensor, "*i B"]]:
    """Tokens with strengths at the middles of `points` equal parts of [0, 1], in every pattern of
    activity, and their weights where the features are active with probabilities `p`.

    The weighted sum of f over the (1 + points)^n tokens is E[f] without the noise of a sample. For
    a few features; of E[x^2] it lacks a share of 1 / (2 points)^2.
    """
    middles = (torch.arange(points) + 0.5) / points
    strengths = torch.cat((torch.zeros(1), middles))
    x = torch.cartesian_prod(*[strengths] * p.shape[-1]).view(-1, p.shape[-1]).T.contiguous()
    is_active, chance = x > 0, p[..., None]
    weights = torch.where(is_active, chance / points, 1 - chance).prod(dim=-2)
    return x, weights
