"""What was done to activations before a dictionary, moved into its weights, exactly.

Weights are replaced, not changed in place: they may be those of the file that was read.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from activation_cache.common.errors import InputError
from sae.interop.pretrained import PretrainedSAE


@dataclass(frozen=True)
class Whitening:
    """Activations x were given as z = (x - mean) @ matrix, and are had back by `inverse`."""

    mean: Tensor
    matrix: Tensor
    inverse: Tensor

    def __post_init__(self) -> None:
        d_in = self.mean.numel()
        shapes = tuple(self.mean.shape), tuple(self.matrix.shape), tuple(self.inverse.shape)
        if shapes != ((d_in,), (d_in, d_in), (d_in, d_in)):
            raise InputError(f"the whitening has tensors of shapes {shapes}: they do not fit")
        product = self.inverse.double() @ self.matrix.double()
        if not torch.allclose(product, torch.eye(d_in, dtype=torch.float64), atol=1e-5):
            raise InputError(
                "the whitening cannot be undone: its inverse_matrix is not the inverse of matrix"
            )


def fold_scale_(sae: PretrainedSAE, scale: float) -> None:
    """From a dictionary for x * scale to one for x, with the same features.

    Those of matching pursuit have no encoder that could take the factor: like the length at which
    it stops, they are in the units of x afterwards.
    """
    _replace(sae.b_dec, sae.b_dec / scale)
    if sae.cfg.activation == "matching_pursuit":
        sae.cfg = replace(sae.cfg, residual_threshold=sae.cfg.residual_threshold / scale)
        return
    _replace_encoder(sae, sae.W_enc_rows * scale)
    _replace(sae.W_dec, sae.W_dec / scale)


def fold_decoder_norms_(sae: PretrainedSAE) -> None:
    """From features h to features h times the norm of their decoder row, which becomes a unit."""
    norms = torch.linalg.vector_norm(sae.W_dec, dim=1)
    _replace_encoder(sae, sae.W_enc_rows * norms[:, None])
    _replace(sae.b_enc, sae.b_enc * norms)
    _replace(sae.W_dec, sae.W_dec / torch.where(norms > 0, norms, 1.0)[:, None])


def fold_whitening_(sae: PretrainedSAE, whitening: Whitening) -> None:
    """From a dictionary for whitened activations to one for x, with the same features."""
    mean, matrix, inverse = (
        t.double() for t in (whitening.mean, whitening.matrix, whitening.inverse)
    )
    if len(mean) != sae.d_in:
        raise InputError(f"the whitening is for width {len(mean)}, the dictionary for {sae.d_in}")
    rows = sae.W_enc_rows.double() @ matrix.T
    if not sae.cfg.subtracts_b_dec:  # else b_dec, which holds the mean now, does it
        shift = rows @ mean
        _replace(sae.b_enc, sae.b_enc - shift)
        if sae.cfg.activation == "gated":
            _replace(sae.b_mag, sae.b_mag - shift * sae.r_mag.double().exp())
    _replace_encoder(sae, rows)
    _replace(sae.W_dec, sae.W_dec.double() @ inverse)
    _replace(sae.b_dec, sae.b_dec.double() @ inverse + mean)


def _replace(parameter: Tensor, value: Tensor) -> None:
    parameter.data = value.detach().to(parameter.dtype).contiguous()


def _replace_encoder(sae: PretrainedSAE, rows: Tensor) -> None:
    encoder = sae.untied_W_enc_rows
    assert isinstance(encoder, nn.Parameter), "a tied encoder cannot be folded into"
    _replace(encoder, rows)
