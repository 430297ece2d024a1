"""One training batch through a dictionary, keeping what the losses need."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.codes import Codes
from sae.kernels import values_at
from sae.selection import NEVER_ACTIVE, Products, Shadow, select
from sae.trainable import Entries, TrainableSAE, TrainingPass


def forward(
    sae: TrainableSAE,
    x: Float[Tensor, "batch d_in"],
    target: Float[Tensor, "batch d_in"] | None = None,
    *,
    sparse: bool = True,
    products: Products = "float32",
    shadow: Shadow | None = None,
) -> TrainingPass:
    """Encode and decode one batch; both tensors are in the units of training.

    `target` is what is to be reconstructed, by default x itself. `sparse` computes all but the
    encoder's product on the `support` alone: its numbers and gradients are the dense ones, exactly,
    and it pays where few features are in the support. `shadow` keeps memory between calls.
    """
    target = x if target is None else target
    centred, bias = encoder_input(sae, x), encoder_bias(sae)
    if sparse:
        entries = _sparse_entries(sae, centred, bias, products, shadow or Shadow())
        return _pass(sae, entries, x, target)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=products == "bfloat16"):
        of_weights = centred @ encoder_rows(sae).T
        entries = _all_entries(sae, with_gain(sae, of_weights, of_weights) + bias)
        return _pass(sae, entries, x, target)


def pre_acts_of(
    sae: TrainableSAE, x: Float[Tensor, "batch d_in"], features: Int[Tensor, " n"]
) -> Float[Tensor, "batch n"]:
    """The pre-activations of a few features, with gradients for what is theirs alone: not for the
    gain, nor for b_dec."""
    return encoder_input(sae, x) @ encoder_rows(sae)[features].T + sae.b_enc[features]


# The encoder is (gain * (x - b_dec)) @ rows.T + b_enc. Gain and b_dec are constants in the product,
# and get their gradients in ways that cost less.


def encoder_rows(sae: TrainableSAE) -> Float[Tensor, "d_sae d_in"]:
    """The encoder without its gain."""
    return sae.W_dec if sae.untied_W_enc_rows is None else sae.untied_W_enc_rows


def encoder_input(sae: TrainableSAE, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
    """The centred input, times the gain where there is one."""
    centred = x - sae.b_dec.detach()
    return centred if sae.gain is None else centred * sae.gain.detach()


def encoder_bias(sae: TrainableSAE) -> Float[Tensor, " d_sae"]:
    """b_enc, by which the constant b_dec in (x - b_dec) @ W_enc gets its gradient."""
    gain = None if sae.gain is None else sae.gain.detach()
    return _CentredBias.apply(sae.b_enc, sae.b_dec, encoder_rows(sae).detach(), gain)


def with_gain(sae: TrainableSAE, values: Tensor, of_weights: Tensor) -> Tensor:
    """The same values, by which the constant gain gets its gradient; `of_weights` are they without
    their bias."""
    if sae.gain is None:
        return values
    return values + (sae.gain / sae.gain.detach() - 1) * of_weights.detach()


def _sparse_entries(
    sae: TrainableSAE, centred: Tensor, bias: Tensor, products: Products, shadow: Shadow
) -> Entries:
    rows = encoder_rows(sae)
    selected = select(
        centred,
        rows,
        bias,
        sae.support,
        shadow,
        products=products,
        in_parts=not sae.cfg.chooses_over_the_batch,
    )
    values = values_at(selected.values, centred, rows, bias, selected.by_feature)
    if sae.gain is not None:
        own_bias = Entries(values, selected.by_feature).of(sae.b_enc)
        values = with_gain(sae, values, values - own_bias)
    return Entries(values, selected.by_feature)


def _all_entries(sae: TrainableSAE, pre_acts: Float[Tensor, "batch d_sae"]) -> Entries:
    """The dense reference: of an architecture that chooses, what is not chosen is never active."""
    if not sae.cfg.is_sparse_from_the_start:
        return Entries(pre_acts)
    indices, _ = sae.support(pre_acts.detach())
    chosen = Codes(indices.clamp_min(0), (indices >= 0).to(pre_acts.dtype), sae.d_sae).dense()
    return Entries(pre_acts.masked_fill(chosen == 0, NEVER_ACTIVE))


def _pass(sae: TrainableSAE, entries: Entries, x: Tensor, target: Tensor) -> TrainingPass:
    values, penalties = sae.activate_entries(entries, target)
    x_hat = entries.sum_rows(values, sae.W_dec) + sae.b_dec
    return TrainingPass(x, target, x_hat, entries.acts(values, sae.d_sae), penalties)


class _CentredBias(torch.autograd.Function):
    """The bias of a product of centred inputs, answerable for what they were centred by.

    Through the product itself, b_dec would get its gradient by way of one for x, which nobody needs
    and which costs as much as the encoder; a vector times the weights is the same.
    """

    @staticmethod
    def forward(
        ctx: Any, b_enc: Tensor, b_dec: Tensor, rows: Tensor, gain: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.gain = gain
        return b_enc.view_as(b_enc)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        (rows,) = ctx.saved_tensors
        of_b_dec = -(grad @ rows)
        return grad, of_b_dec if ctx.gain is None else of_b_dec * ctx.gain, None, None
