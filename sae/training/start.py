"""How a dictionary starts: where it will stand, sparse, and at the scale that rebuilds best.

One start for all architectures. Decoder rows are random in the space that the inputs span, and the
encoder is their transpose. The level is sought that as few features exceed as the architecture
wants at first (`initial_l0`, `let_through_`); then, in the form in which it is trained, the factor
by which these rebuild the inputs with the least error. The encoder and its offsets are multiplied
by that together, so that the same features fire. What was tried is in docs/log.md.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sae.codes import fire_counts
from sae.selection import PRE_ACTS_AT_ONCE
from sae.trainable import TrainableSAE
from sae.training.forward import forward

MOST_TOKENS = 2048
"""Tokens that the start is fitted to, of a narrow dictionary; wider ones take fewer."""
FEWEST_TOKENS = 64
BISECTIONS = 12
NO_VARIANCE = 1e-10
"""Of all variance: a direction with less is outside of the inputs' space."""


@torch.no_grad()
def start_(sae: TrainableSAE, x: Float[Tensor, "n d_in"], scale: float) -> float:
    """Fit a fresh dictionary to activations, which are given unscaled. Returns its L0 on them."""
    sae.b_dec.copy_(x.mean(dim=0) * scale)
    _stay_in_the_span_of(sae, x - x.mean(dim=0))
    most = min(MOST_TOKENS, PRE_ACTS_AT_ONCE[x.device.type] // sae.d_sae)
    x = x[: max(FEWEST_TOKENS, most)] * scale
    if not sae.cfg.is_sparse_from_the_start:
        _let_through(sae, x, sae.cfg.initial_l0)
    factor, l0 = _rebuilt(sae, x)
    if (encoder := sae.gain if sae.cfg.tied else sae.untied_W_enc_rows) is not None:
        for tensor in (encoder, *sae.offsets()):
            if tensor is not sae.b_dec:
                tensor.mul_(factor)
    elif not sae.cfg.is_sparse_from_the_start:
        l0 = _let_through_as_many_as_fit(sae, x)
    sae.is_fresh = False
    return l0


def _stay_in_the_span_of(sae: TrainableSAE, centred: Tensor) -> None:
    """Turn rows into the space of the inputs, where that is not all of d_in dimensions.

    What is outside of it could only be forgotten: inputs that are the same but for more dimensions
    shall have the same start.
    """
    if len(centred) < 2 * sae.d_in:
        return  # too few to tell
    centred = centred.cpu().double()  # not every device has float64 and its decompositions
    covariance = centred.T @ centred
    least = NO_VARIANCE * covariance.trace()
    if torch.linalg.cholesky_ex(covariance - least * torch.eye(sae.d_in)).info == 0:
        return  # all variances are larger than that, and this is fast to see
    variances, directions = torch.linalg.eigh(covariance)
    spanned = directions[:, variances > least].to(sae.W_dec)
    if spanned.shape[1]:  # else all rows are the same
        rows = sae.W_dec @ spanned @ spanned.T
        sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
        if sae.untied_W_enc_rows is not None:
            sae.untied_W_enc_rows.copy_(sae.W_dec)


def _let_through(sae: TrainableSAE, x: Tensor, l0: float) -> None:
    """Let `l0` features be active on a token on average."""
    products = ((x - sae.b_dec) @ sae.W_enc).flatten()
    n_active = min(max(1, round(l0 * len(x))), len(products) // 2)
    sae.let_through_(products.topk(n_active, sorted=False).values.min().item())


def _rebuilt(sae: TrainableSAE, x: Tensor) -> tuple[float, float]:
    """The factor at which what the active features make of x is closest to it, and their number on
    a token. The factor is 1 where nothing is active, or all of x is its mean."""
    out = forward(sae, x, sparse=sae.cfg.is_sparse_from_the_start)
    statistic = sae.statistic(out.acts)
    rebuilt, centred = out.x_hat - sae.b_dec, x - sae.b_dec
    square = rebuilt.square().sum()
    factor = ((rebuilt * centred).sum() / square).item() if square > 0 else 1.0
    if statistic is not None and statistic.isfinite():
        sae.set_statistic_(statistic)
    return factor, (fire_counts(out.acts).sum() / len(x)).item()


def _let_through_as_many_as_fit(sae: TrainableSAE, x: Tensor) -> float:
    """For an encoder that cannot be scaled: so many features that the best factor is 1."""
    few, many = 0.0, math.log(sae.d_sae / 2)
    l0 = 0.0
    for _ in range(BISECTIONS):
        middle = (few + many) / 2
        _let_through(sae, x, math.exp(middle))
        factor, l0 = _rebuilt(sae, x)
        few, many = (middle, many) if factor > 1 else (few, middle)
    return l0
