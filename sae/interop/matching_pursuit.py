"""Matching pursuit: features found one at a time, each in what the ones before have left over."""

import torch
from jaxtyping import Float
from torch import Tensor


def matching_pursuit(
    x: Float[Tensor, "batch d_in"],
    rows: Float[Tensor, "d_sae d_in"],
    *,
    n_rounds: int,
    residual_threshold: float,
    stops_at_same_support: bool,
) -> Float[Tensor, "batch d_sae"]:
    """Features of each token, by the rules of SAELens.

    In each round the row with the largest product with the residual is taken out of it, as often
    as that product says. A token is done when its residual is shorter than `residual_threshold`
    (where that is positive), or, with `stops_at_same_support`, when a round brings no new feature;
    what that round has found still counts.
    """
    acts = x.new_zeros(len(x), len(rows))
    tokens = torch.arange(len(x), device=x.device)  # those that are not done
    residual = x
    for _ in range(n_rounds):
        if not len(tokens):
            break
        features = (residual @ rows.T).argmax(dim=1)
        chosen = rows[features]
        values = (residual * chosen).sum(dim=1).relu()
        is_same = (acts[tokens, features] != 0) | (values == 0)
        acts[tokens, features] += values
        residual = residual - values[:, None] * chosen
        done = is_same & stops_at_same_support
        if residual_threshold > 0:
            done |= torch.linalg.vector_norm(residual, dim=1) < residual_threshold
        tokens, residual = tokens[~done], residual[~done]
    return acts
