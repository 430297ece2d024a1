"""What a trainer does to the weights of a dictionary beside the optimiser's steps."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sae.selection import PRE_ACTS_AT_ONCE
from sae.trainable import TrainableSAE

ROWS_IN_CACHE = 1024
"""Rows that one pass over the weights takes at a time on a CPU."""


def norm_scale(x: Float[Tensor, "n d_in"]) -> float:
    """The factor that brings the mean norm of activations to sqrt(d_in): SAELens'
    `expected_average_only_in`."""
    return math.sqrt(x.shape[1]) / x.norm(dim=1).mean().item()


@torch.no_grad()
def initialise_(sae: TrainableSAE, x: Float[Tensor, "n d_in"], scale: float) -> None:
    """Fit the biases and the encoder's scale to activations, which are given unscaled.

    `b_dec` becomes their mean. Where the architecture knows how many features are active at first,
    the bias sees to that. An untied encoder is scaled so that the random features it starts with,
    many of which fire at once, rebuild x with the least error that a factor can give. A dictionary
    that was trained stays what it is, in the units of training.
    """
    if not sae.is_fresh:
        for offset in sae.offsets():
            offset.mul_(scale)
        return
    sae.b_dec.copy_(x.mean(dim=0) * scale)
    if sae.cfg.initial_density < 0.5:
        n_tokens = max(64, PRE_ACTS_AT_ONCE[x.device.type] // sae.d_sae)
        pre_acts = sae.pre_acts(x[:n_tokens] * scale).flatten()
        n_active = max(1, int(sae.cfg.initial_density * len(pre_acts)))
        sae.b_enc.sub_(pre_acts.topk(n_active, sorted=True).values[-1])
    if sae.untied_W_enc_rows is not None:
        along, square = x.new_zeros(()), x.new_zeros(())
        for part in x.split(max(1, PRE_ACTS_AT_ONCE[x.device.type] // sae.d_sae)):
            centred = part * scale - sae.b_dec
            rebuilt = sae.sum_of_rows(sae.activate(sae.pre_acts(part * scale)))
            along += (rebuilt * centred).sum()
            square += rebuilt.square().sum()
        if square > 0:  # else all of x is its mean, or nothing fires
            sae.untied_W_enc_rows.mul_(along / square)  # b_enc stays: docs/log.md
    sae.is_fresh = False


@torch.no_grad()
def fold_scale_(sae: TrainableSAE, scale: float) -> None:
    """From a dictionary for inputs times a scale to one for the inputs, by its biases alone.

    relu, top-k and a threshold commute with a positive factor, so the weights stay as they are:
    rows of unit norm remain rows of unit norm, and tied weights remain tied.
    """
    for offset in sae.offsets():
        offset.div_(scale)


@torch.no_grad()
def normalise_decoder_(sae: TrainableSAE) -> None:
    """Bring every decoder row back to unit norm, after the optimiser's step."""
    for rows in _blocks(sae.W_dec):
        rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(1e-8))


@torch.no_grad()
def project_decoder_gradient_(sae: TrainableSAE) -> None:
    """Remove what the gradient would change of the norms of the decoder rows."""
    if sae.W_dec.grad is not None:
        for rows, grad in zip(_blocks(sae.W_dec), _blocks(sae.W_dec.grad), strict=True):
            along = torch.linalg.vecdot(grad, rows)
            grad.addcmul_(along[:, None], rows, value=-1.0)


def _blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """Views that stay in a processor's cache from one operation to the next; a GPU takes all."""
    return rows.split(ROWS_IN_CACHE) if rows.device.type == "cpu" else (rows,)
