"""What was done to activations before a dictionary, moved into its weights, exactly.

Weights are replaced, not changed in place: they may be those of the file that was read.
"""

from dataclasses import replace

import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.interop.pretrained import PretrainedSAE

Whitening = tuple[Tensor, Tensor, Tensor]
"""Mean [d_in], matrix and inverse [d_in, d_in]: activations x were given as (x - mean) @ matrix."""


def fold_scale_(sae: PretrainedSAE, scale: float) -> None:
    """From a dictionary for x * scale to one for x, with the same features.

    Those of matching pursuit have no encoder that could take the factor: like the length at which
    it stops, they are in the units of x afterwards.
    """
    _replace(sae.b_dec, sae.b_dec / scale)
    if sae.cfg.activation == "matching_pursuit":
        sae.cfg = replace(sae.cfg, residual_threshold=sae.cfg.residual_threshold / scale)
        return
    _replace(sae.W_enc_rows, sae.W_enc_rows * scale)
    _replace(sae.W_dec, sae.W_dec / scale)


def fold_decoder_norms_(sae: PretrainedSAE) -> None:
    """From features h to features h times the norm of their decoder row, which becomes a unit."""
    norms = torch.linalg.vector_norm(sae.W_dec, dim=1)
    _replace(sae.W_enc_rows, sae.W_enc_rows * norms[:, None])
    _replace(sae.b_enc, sae.b_enc * norms)
    _replace(sae.W_dec, sae.W_dec / torch.where(norms > 0, norms, 1.0)[:, None])


def fold_whitening_(sae: PretrainedSAE, whitening: Whitening) -> None:
    """From a dictionary for whitened activations to one for x, with the same features."""
    mean, matrix, inverse = (part.double() for part in whitening)
    if not torch.allclose(inverse @ matrix, torch.eye(sae.d_in, dtype=matrix.dtype), atol=1e-5):
        raise InputError("the whitening cannot be undone: inverse_matrix is none of matrix")
    if sae.cfg.tied:
        raise InputError("covariance_whitening cannot be folded into a tied encoder")
    rows = sae.W_enc_rows.double() @ matrix.T
    if not sae.cfg.subtracts_b_dec:  # else b_dec, which holds the mean now, does it
        shift = rows @ mean
        _replace(sae.b_enc, sae.b_enc - shift)
        if sae.cfg.activation == "gated":
            _replace(sae.b_mag, sae.b_mag - shift * sae.r_mag.double().exp())
    _replace(sae.W_enc_rows, rows)
    _replace(sae.W_dec, sae.W_dec.double() @ inverse)
    _replace(sae.b_dec, sae.b_dec.double() @ inverse + mean)


def _replace(parameter: Tensor, value: Tensor) -> None:
    parameter.data = value.detach().to(parameter.dtype).contiguous()
