"""Losses as pure functions.

Two reductions of the squared error are in use, and a penalty coefficient means nothing without the
one it goes with: `sum_d` sums over d_in, `mean_d` averages over it; both average over the batch.
loss("sum_d", d_in * coeff) = d_in * loss("mean_d", coeff).
"""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from sae.base import SAE, TrainingPass
from sae.codes import Codes, top_k

LossReduction = Literal["sum_d", "mean_d"]


def mse_loss(
    x_hat: Float[Tensor, "batch d_in"], x: Float[Tensor, "batch d_in"], reduction: LossReduction
) -> Float[Tensor, ""]:
    """The squared error: mean over the batch of the sum, or the mean, over d_in."""
    per_token = (x_hat - x).square()
    return per_token.sum(dim=1).mean() if reduction == "sum_d" else per_token.mean()


def auxk_loss(
    sae: SAE, out: TrainingPass, dead: Int[Tensor, " n_dead"], reduction: LossReduction
) -> Float[Tensor, ""]:
    """How badly the dead features with the largest pre-activations rebuild the error (AuxK).

    `dead` are the indices of the dead features. Gao et al. 2024, section 2.4: at most d_in / 2 of
    them count for a token (app. A.2). The gradient reaches the encoder through the pre-activations;
    the error itself is a constant.
    """
    k_aux = out.x.shape[1] // 2
    error = (out.x - out.x_hat).detach()
    pre_acts = sae.pre_acts_of(out.x, dead)
    if len(dead) <= k_aux:  # all of them, and a small dense product is the cheapest
        return mse_loss(pre_acts.relu() @ sae.W_dec[dead], error, reduction)
    values, indices = top_k(pre_acts, k_aux)
    revived = Codes(dead[indices], values.relu(), sae.d_sae)
    return mse_loss(revived.decode(sae.W_dec), error, reduction)
