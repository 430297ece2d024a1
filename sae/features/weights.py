"""What the weights of a dictionary say of each feature: lengths, neighbours, direct effects."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.base import SAE

NUMBERS_AT_ONCE = 2**24
"""Cosines or logits that are held at a time: 64 MB."""


@torch.no_grad()
def of_weights(sae: SAE[Any], n_neighbours: int) -> dict[str, Tensor]:
    """By name, numbers of each feature [d_sae] or [d_sae, n_neighbours].

    alignment is the cosine of encoder and decoder row; NaN for a transcoder. Neighbours are the
    features whose rows have the largest cosine with those of a feature, the largest first.
    """
    W_enc, W_dec = sae.W_enc_rows, sae.W_dec
    found = {"encoder_norm": W_enc.norm(dim=1), "decoder_norm": W_dec.norm(dim=1)}
    if W_enc.shape == W_dec.shape:
        found["alignment"] = torch.cosine_similarity(W_enc, W_dec, dim=1)
    else:
        found["alignment"] = torch.full((sae.d_sae,), torch.nan)
    for name, rows in (("decoder", W_dec), ("encoder", W_enc)):
        cosines, ids = _neighbours(rows, min(n_neighbours, sae.d_sae - 1))
        found |= {f"{name}_neighbours": ids, f"{name}_cosines": cosines}
    return {name: tensor.cpu() for name, tensor in found.items()}


def _neighbours(rows: Float[Tensor, "d_sae d"], n: int) -> tuple[Tensor, Tensor]:
    unit = torch.nn.functional.normalize(rows, dim=1)
    parts = _parts(len(rows), len(rows))
    # What stays is allocated before: between products, it would keep their memory from being used
    # again.
    cosines = rows.new_empty(len(rows), n)
    ids = torch.empty_like(cosines, dtype=torch.int32)
    space = rows.new_empty(parts[0].stop, len(rows))
    for part in parts:
        products = torch.mm(unit[part], unit.T, out=space[: len(unit[part])])
        products.diagonal(part.start).fill_(-2.0)
        best = products.topk(n, dim=1)
        cosines[part], ids[part] = best.values, best.indices.to(torch.int32)
    return cosines, ids


def direct_logits_of(sae: SAE[Any], model: Any) -> Callable[[Tensor], Tensor] | None:
    """What the model makes of rows at the site that the dictionary writes to, [n, d_vocab].

    None where the model does not say, or the site has no direct effect.
    """
    effect = getattr(model, "direct_effect", None)
    if effect is None:
        return None
    try:
        return effect(sae.provenance.hook_name_out or sae.hook_name)
    except InputError:
        return None


@torch.no_grad()
def of_logits(
    rows: Float[Tensor, "d_sae d"], direct_logits: Callable[[Tensor], Tensor], n: int
) -> dict[str, Tensor]:
    """The tokens that each decoder row raises most and lowers most, by its direct effect."""
    first = direct_logits(rows[:1])
    n = min(n, first.shape[1])
    found: dict[str, Tensor] = {}
    for side in ("raised", "lowered"):
        found[f"{side}_ids"] = torch.empty(len(rows), n, dtype=torch.int32)
        found[f"{side}_logits"] = torch.empty(len(rows), n, dtype=first.dtype)
    for part in _parts(len(rows), first.shape[1]):
        logits = direct_logits(rows[part])
        for side, largest in (("raised", True), ("lowered", False)):
            best = logits.topk(n, dim=1, largest=largest)
            found[f"{side}_ids"][part] = best.indices.to(torch.int32).cpu()
            found[f"{side}_logits"][part] = best.values.cpu()
    return found


@torch.no_grad()
def logit_histograms(
    rows: Float[Tensor, "n d"], direct_logits: Callable[[Tensor], Tensor], n_bins: int
) -> tuple[Int[Tensor, "n n_bins"], Float[Tensor, "n 2"]]:
    """How many tokens of the vocabulary are in each of equally wide bins of a row's logits, and
    where the first bin begins and the last one ends: its smallest and its largest logit."""
    d_vocab = direct_logits(rows[:1]).shape[1]
    counts: list[Tensor] = []
    ends: list[Tensor] = []
    for part in _parts(len(rows), 4 * d_vocab):  # what is made of them is as large
        logits = direct_logits(rows[part]).float()
        low, high = logits.amin(dim=1, keepdim=True), logits.amax(dim=1, keepdim=True)
        width = ((high - low) / n_bins).clamp_min(1e-30)
        bins = ((logits - low) / width).long().clamp_max(n_bins - 1)
        empty = torch.zeros(len(bins), n_bins, dtype=torch.long, device=bins.device)
        counts.append(empty.scatter_add_(1, bins, torch.ones_like(bins)))
        ends.append(torch.cat([low, high], dim=1))
    return torch.cat(counts).cpu(), torch.cat(ends).cpu()


def _parts(n: int, width: int) -> list[slice]:
    size = max(1, NUMBERS_AT_ONCE // width)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
