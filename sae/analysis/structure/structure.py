"""What a dictionary looks like, from its weights and one pass over activations, without labels.

Left out on purpose: measures of hedging and of splitting. The hedging degree of Chanin et al. 2025
(arXiv 2505.11756; `hedging_eval.py` of chanind/feature-hedging-paper) is one of two dictionaries:
one is widened by some features and trained on, and counted is how far the decoder rows of the old
features move within the span of the new ones, beyond what random new ones would give. Splitting is
measured with labels, or between two widths. Neither is to be had from one dictionary.
"""
# Shapes: F = features.

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.analysis.stability.dictionaries import SparseDictionary, refuse_what_does_not_fit
from sae.analysis.structure.activity import Activity, one_pass
from sae.analysis.structure.meta import Fit, MetaConfig, MetaStructure, meta_structure
from sae.analysis.structure.neighbours import Neighbours, nearest_within
from sae.analysis.structure.spread import Spread


@dataclass(frozen=True, kw_only=True)
class FeatureStructure:
    """Each feature; NaN where it has no such number."""

    decoder_norm: Float[Tensor, " F"]
    encoder_norm: Float[Tensor, " F"]
    decoder_nearest: Float[Tensor, " F"]
    """Largest signed cosine of its decoder row with another's."""
    encoder_nearest: Float[Tensor, " F"]
    alignment: Float[Tensor, " F"]
    """Cosine of its encoder row with its decoder row."""
    density: Float[Tensor, " F"]
    """Share of the tokens on which it fires."""
    shrinkage: Float[Tensor, " F"]
    """`sae.analysis.structure.activity` has the definition; below 1 it is too small."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A dictionary as a whole; `features` has the same of each feature."""

    n_features: int
    d_in: int
    decoder_norms: Spread
    encoder_norms: Spread
    decoder_neighbours: Neighbours
    encoder_neighbours: Neighbours
    alignment: Spread
    """Cosines of encoder rows with their decoder rows. 1 for all of a tied dictionary."""
    activity: Activity
    shrinkage: Spread | None
    """None where no feature has a contribution of its own."""
    meta: MetaStructure | None
    """None where no `fit` was given."""
    features: FeatureStructure = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All but `features`, for JSON: what is not defined is None."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "features"}


@torch.no_grad()
def structure(
    dictionary: SparseDictionary,
    batches: Iterable[Float[Tensor, "_ d_in"]],
    *,
    fit: Fit | None = None,
    meta: MetaConfig | None = None,
) -> Structure:
    """Look at the weights of a dictionary, and at what it does with activations [rows, d_in].

    `batches` are gone through once. `fit` trains the dictionary of the decoder's rows, which takes
    far longer than everything else; without it there is none. Cosines are made in parts of 16M, so
    a dictionary needs a few hundred MB beside its weights. `InputError` for a transcoder, for
    weights that are not finite, and where there are no activations, or of another width.
    """
    _refuse_unfit(dictionary)
    decoder = dictionary.W_dec.detach().to(torch.float32)
    encoder = dictionary.W_enc.detach().T.to(torch.float32)
    norms = decoder.norm(dim=1).cpu(), encoder.norm(dim=1).cpu()
    by_decoder, by_encoder = nearest_within(decoder), nearest_within(encoder)
    alignment = torch.cosine_similarity(encoder, decoder, dim=1).cpu()
    alignment = torch.where((norms[0] > 0) & (norms[1] > 0), alignment, torch.nan)
    seen = one_pass(dictionary, batches)
    nothing = torch.full((len(decoder),), torch.nan, dtype=torch.float64)
    d_sae, d_in = decoder.shape
    with torch.enable_grad():  # the training needs it
        meta_of_rows = None if fit is None else meta_structure(decoder, fit, meta)
    return Structure(
        n_features=d_sae,
        d_in=d_in,
        decoder_norms=Spread.of(norms[0]),
        encoder_norms=Spread.of(norms[1]),
        decoder_neighbours=by_decoder.summary(d_in),
        encoder_neighbours=by_encoder.summary(d_in),
        alignment=Spread.of(alignment),
        activity=seen.summary(),
        shrinkage=None if seen.shrinkage is None else Spread.of(seen.shrinkage),
        meta=meta_of_rows,
        features=FeatureStructure(
            decoder_norm=norms[0],
            encoder_norm=norms[1],
            decoder_nearest=by_decoder.signed,
            encoder_nearest=by_encoder.signed,
            alignment=alignment,
            density=seen.density,
            shrinkage=nothing if seen.shrinkage is None else seen.shrinkage,
        ),
    )


def _refuse_unfit(dictionary: SparseDictionary) -> None:
    refuse_what_does_not_fit([dictionary])
    if dictionary.provenance.hook_name_out is not None:
        raise InputError(
            f"the dictionary is a transcoder to {dictionary.provenance.hook_name_out}: structure "
            f"looks at those that reconstruct their own input"
        )
    for name, weights in (("W_dec", dictionary.W_dec), ("W_enc", dictionary.W_enc)):
        n_wrong = int((~weights.isfinite()).sum())
        if n_wrong:
            raise InputError(
                f"{name} has {n_wrong} entries that are not finite: train the dictionary again, or "
                f"load an earlier checkpoint"
            )


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {f"{key:g}": _plain(of) for key, of in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
