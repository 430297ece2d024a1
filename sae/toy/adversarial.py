"""How much worse the worst of a few small steps makes the outputs of a toy model.

Elhage et al. 2022, section 6: a step of a tenth of the mean norm, along what the model makes of
one feature or against it; the worst one of each token. The target stays the token before the step.
"""
# Shapes: S = settings, R = restarts, n = features, B = tokens, K = directions.

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.toy.models import VALUES_AT_ONCE, ToyModels


@dataclass(frozen=True)
class Vulnerability:
    """Squared errors, summed over features, mean over tokens; and how long the steps were.

    The length falls with the density of the features, and so does what a step can do at all: how
    vulnerable the sparse models look depends on which of the three measures is taken.
    """

    clean: Float[Tensor, "S R"]
    worst: Float[Tensor, "S R"]
    epsilon: Float[Tensor, " S"]

    @property
    def per_squared_length(self) -> Float[Tensor, "S R"]:
        """(worst - clean) / epsilon^2: 1 where the error is the step itself and nothing else."""
        return self.increase / self.epsilon[:, None].square()

    @property
    def ratio(self) -> Float[Tensor, "S R"]:
        """worst / clean."""
        return self.worst / self.clean

    @property
    def increase(self) -> Float[Tensor, "S R"]:
        return self.worst - self.clean


def feature_directions(W: Float[Tensor, "*i m n"]) -> Float[Tensor, "*i n n"]:
    """Row f is column f of W'W at length 1: what a tied model makes of feature f alone."""
    products = W.mT @ W
    return products / products.norm(dim=-1, keepdim=True).clamp_min(1e-12)


@torch.no_grad()
def vulnerability(
    models: ToyModels,
    x: Float[Tensor, "S 1 n B"],
    *,
    share: float = 0.1,
    directions: Float[Tensor, "S R K n"] | None = None,
) -> Vulnerability:
    """The worst of the steps of a share of the mean norm of `x`, for each token of each model.

    Steps go along unit `directions`, those of the features by default, and against them. Only for
    models without a ReLU in their hidden layer.
    """
    if models.cfg.relu_hidden:
        raise InputError(f"no vulnerability of kind {models.cfg.kind!r}: use linear or relu_output")
    directions = feature_directions(models.W) if directions is None else directions
    epsilon = share * x.norm(dim=2).mean(dim=(1, 2))
    clean = torch.empty(models.W.shape[:2], device=x.device)
    worst = torch.empty_like(clean)
    for s in range(models.settings):
        for r in range(models.restarts):
            W, tokens = models.W[s, r], x[s, 0]
            before = W.T @ (W @ tokens) + models.b[s, r, :, None]
            moves = epsilon[s] * directions[s, r] @ W.T @ W
            of_clean, of_worst = _errors(before, tokens, moves, models.cfg.relu_output)
            clean[s, r], worst[s, r] = of_clean.mean(), of_worst.mean()
    return Vulnerability(clean, worst, epsilon)


def _errors(
    before: Float[Tensor, "n B"],
    target: Float[Tensor, "n B"],
    moves: Float[Tensor, "K n"],
    relu: bool,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Each token's summed squared error, and that after the worst of the moves of its output."""
    clean = before.relu() if relu else before
    worst = before.new_full((before.shape[1],), -torch.inf)
    for b, signed in _parts(before, moves):
        moved = before[:, b] + signed[:, :, None]
        if relu:
            moved.relu_()
        errors = moved.sub_(target[:, b]).square_().sum(dim=1)
        worst[b] = torch.maximum(worst[b], errors.amax(dim=0))
    return (clean - target).square().sum(dim=0), worst


def _parts(before: Tensor, moves: Tensor) -> Iterator[tuple[slice, Float[Tensor, "k n"]]]:
    """Tokens and moves, of both signs, that are computed together."""
    n, n_tokens = before.shape
    at_once = max(1, VALUES_AT_ONCE[before.device.type] // n)
    some_tokens = min(n_tokens, 128 if before.device.type == "cpu" else 8192)
    for signed in torch.cat((moves, -moves)).split(max(1, at_once // some_tokens)):
        for first in range(0, n_tokens, some_tokens):
            yield slice(first, first + some_tokens), signed
