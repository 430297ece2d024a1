"""What inputs are multiplied by in training: all by one scale, those of a massive norm by less."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError

USUAL_SHARE = 0.99
"""The inputs by whose norms those of the others are judged."""


def norm_scale(x: Float[Tensor, "n d_in"]) -> float:
    """The factor that brings the mean norm of activations to sqrt(d_in): SAELens'
    `expected_average_only_in`."""
    return math.sqrt(x.shape[1]) / x.norm(dim=1).mean().item()


def usual_norm(x: Float[Tensor, "n d_in"]) -> float:
    """The norm that 99 of 100 inputs have at most."""
    return x.norm(dim=1).quantile(USUAL_SHARE).item()


def clip_of(x: Float[Tensor, "batch d_in"], largest: float) -> Float[Tensor, "batch 1"]:
    """What brings inputs of a larger norm to the largest one that is wanted; 1 for the others.

    Some models write into a few tokens what has hundreds of times the norm of others ("massive
    activations", Sun et al. 2024). Their squared errors would outweigh all others together, and
    where features are chosen by a threshold, or over the batch, nearly all would be active on them.
    """
    norms = x.norm(dim=1, keepdim=True)
    return (largest / norms).clamp_max(1) + 0 * norms  # NaN where a norm is not finite


def refuse_without_scale(sample: Float[Tensor, "n d_in"], *, normalise: bool) -> None:
    """`InputError` for first activations that nothing can be fitted to."""
    if not torch.isfinite(sample).all():
        raise InputError("the activations hold NaN or Inf: fix the stream before training")
    norm = sample.float().norm(dim=1).mean().item()
    if normalise and not 0 < norm < math.inf:
        raise InputError(
            f"the mean norm of the first activations is {norm:.4g} in float32, which gives no "
            f"scale: fix the stream before training"
        )
