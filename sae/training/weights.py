"""What a trainer does to the weights of a dictionary beside the optimiser's steps."""

import torch
from torch import Tensor

from sae.trainable import TrainableSAE
from sae.training.config import Frozen

ROWS_IN_CACHE = 1024
"""Rows that one pass over the weights takes at a time on a CPU."""


FROZEN: dict[Frozen, str] = {"decoder": "W_dec", "encoder": "untied_W_enc_rows"}


def set_trained_(sae: TrainableSAE, frozen: Frozen, trained: bool) -> None:
    """Whether the weights that a training is to leave alone have gradients."""
    if frozen != "none":
        getattr(sae, FROZEN[frozen]).requires_grad_(trained)


@torch.no_grad()
def unfold_scale_(sae: TrainableSAE, scale: float) -> None:
    """From a dictionary for inputs to one for inputs times a scale: what `fold_scale_` undoes."""
    for offset in sae.offsets():
        offset.mul_(scale)


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
    for rows in blocks(sae.W_dec):
        rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(1e-8))


@torch.no_grad()
def project_decoder_gradient_(sae: TrainableSAE) -> None:
    """Remove what the gradient would change of the norms of the decoder rows."""
    if sae.W_dec.grad is not None:
        for rows, grad in zip(blocks(sae.W_dec), blocks(sae.W_dec.grad), strict=True):
            along = torch.linalg.vecdot(grad, rows)
            grad.addcmul_(along[:, None], rows, value=-1.0)


def blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """Views that stay in a processor's cache from one operation to the next; a GPU takes all."""
    return rows.split(ROWS_IN_CACHE) if rows.device.type == "cpu" else (rows,)
