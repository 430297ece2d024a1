"""How far two dictionaries that should be the same are apart."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE


@dataclass(frozen=True, kw_only=True)
class Differences:
    """The largest differences over some tokens, and the largest numbers to hold them against."""

    n_tokens: int
    features: float
    largest_feature: float
    support: int
    """Entries of tokens and features that are active in only one of the two."""
    reconstruction: float
    largest_reconstruction: float


@torch.no_grad()
def compare(ours: SAE, theirs: SAE, x: Float[Tensor, "n d_in"], batch: int = 512) -> Differences:
    """Encode and reconstruct the same activations with both."""
    found = [_differences(ours, theirs, part) for part in x.split(batch)]
    return Differences(
        n_tokens=len(x),
        features=max(of.features for of in found),
        largest_feature=max(of.largest_feature for of in found),
        support=sum(of.support for of in found),
        reconstruction=max(of.reconstruction for of in found),
        largest_reconstruction=max(of.largest_reconstruction for of in found),
    )


def _differences(ours: SAE, theirs: SAE, x: Tensor) -> Differences:
    features, others = ours.encode(x), theirs.encode(x)
    rebuilt, rebuilt_by_theirs = ours(x), theirs(x)
    return Differences(
        n_tokens=len(x),
        features=_largest(features - others),
        largest_feature=_largest(features),
        support=int(((features != 0) != (others != 0)).sum()),
        reconstruction=_largest(rebuilt - rebuilt_by_theirs),
        largest_reconstruction=_largest(rebuilt),
    )


def _largest(x: Tensor) -> float:
    return x.abs().max().item()
