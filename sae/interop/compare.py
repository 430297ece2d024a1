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
    support, largest = 0, torch.zeros(4)
    for part in x.split(batch):
        acts, others = ours.encode(part), theirs.encode(part)
        x_hat, other = ours(part), theirs(part)
        support += int(((acts != 0) != (others != 0)).sum())
        sizes = [t.abs().max().cpu() for t in (acts - others, acts, x_hat - other, x_hat)]
        largest = torch.maximum(largest, torch.stack(sizes))
    names = ("features", "largest_feature", "reconstruction", "largest_reconstruction")
    named = dict(zip(names, largest.tolist(), strict=True))
    return Differences(n_tokens=len(x), support=support, **named)
