"""Losses as pure functions.

Two reductions of the squared error are in use, and a penalty coefficient means nothing without the
one it goes with: `sum_d` sums over d_in, `mean_d` averages over it; both average over the batch.
loss("sum_d", d_in * coeff) = d_in * loss("mean_d", coeff).
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.codes import top_k
from sae.selection import Products
from sae.trainable import TrainableSAE, TrainingPass
from sae.training.forward import pre_acts_of

LossReduction = Literal["sum_d", "mean_d"]


def mse_loss(
    x_hat: Float[Tensor, "batch d_in"], x: Float[Tensor, "batch d_in"], reduction: LossReduction
) -> Float[Tensor, ""]:
    """The squared error: mean over the batch of the sum, or the mean, over d_in."""
    per_token = (x_hat - x).square()
    return per_token.sum(dim=1).mean() if reduction == "sum_d" else per_token.mean()


LEAST_VARIANCE = 1e-5
"""The share of the mean square below which a difference of squares in float32 is rounding."""


def variance(
    x: Float[Tensor, "batch d_in"], near: Float[Tensor, " d_in"], reduction: LossReduction
) -> Float[Tensor, ""]:
    """What the batch's mean leaves unexplained, reduced as the squared error is.

    `near` is close to the mean: little is lost in the difference of squares. NaN where all rows are
    alike, so that nothing but rounding is left of it.
    """
    centred = x - near
    of_mean = centred.mean(dim=0).square().sum()
    power = torch.linalg.vector_norm(centred).square() / len(x)
    found = power - of_mean
    found = torch.where(found > LEAST_VARIANCE * power, found, torch.nan)
    return found if reduction == "sum_d" else found / x.shape[1]


def auxk_loss(
    sae: TrainableSAE,
    out: TrainingPass,
    dead: Int[Tensor, " n_dead"],
    reduction: LossReduction,
    products: Products = "float32",
) -> Float[Tensor, ""]:
    """How badly the dead features with the largest pre-activations rebuild the error (AuxK).

    `dead` are the indices of the dead features. Gao et al. 2024, section 2.4: at most d_in / 2 of
    them count for a token (app. A.2). The gradient reaches the encoder through the pre-activations;
    the error itself is a constant. Of the few features that are dead, hundreds count for a token:
    their products are dense.

    Differences from that paper:
    - pre-activations that are never positive, as where a bias has killed a feature, are raised
      until they are where they exceed their mean over the batch by two standard deviations;
    - what hundreds of features make of the error is more than the error, so it is multiplied by the
      number, at most 1, that brings it closest; otherwise their biases would fall without end;
    - what dead features share with living ones, a gain and b_dec, is a constant.
    """
    k_aux = out.x.shape[1] // 2
    error = (out.target - out.x_hat).detach()
    with torch.autocast(error.device.type, torch.bfloat16, enabled=products == "bfloat16"):
        pre_acts = pre_acts_of(sae, out.x, dead)
        std, mean = torch.std_mean(pre_acts.detach(), dim=0, correction=0)
        pre_acts = pre_acts - (mean + 2 * std).clamp_max(0)
        if len(dead) > k_aux:
            values, indices = top_k(pre_acts, k_aux)
            pre_acts = torch.zeros_like(pre_acts).scatter(1, indices, values)
        rebuilt = pre_acts.relu() @ sae.W_dec[dead]
        return mse_loss(_best_factor(rebuilt.detach(), error) * rebuilt, error, reduction)


def _best_factor(rebuilt: Tensor, error: Tensor) -> Tensor:
    """By which `rebuilt` is closest to the error, at most 1.

    At least .1, so that dead features always have a gradient.
    """
    square = rebuilt.square().sum().clamp_min(1e-12)
    return ((rebuilt * error).sum() / square).clamp(0.1, 1)
