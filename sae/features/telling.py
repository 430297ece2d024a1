"""A few features to show of many: half chosen for what they say, half at random."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.features.folder import Features

N_TELLING = 50
N_STRATA = 5


def telling(features: Features, n: int = N_TELLING, seed: int = 0) -> list[int]:
    """Numbers of `n` features that fire, or of all if they are fewer, in ascending order.

    Half are drawn from density strata: the features, sorted by density, are cut into five equal
    parts, and of each the ones with the largest logit effect are taken (largest value, where the
    logits are not known), so that frequent and rare ones are there and have something to say. The
    other half are drawn at random from the rest, so that one also sees what is usual.
    """
    density = features.numbers("density")
    firing = (density > 0).nonzero().flatten()
    if len(firing) <= n:
        return firing.tolist()
    says = features.numbers("raised_logits")[:, 0] if "raised_ids" in features.names else None
    says = features.numbers("max") if says is None else says
    chosen = _of_strata(firing[density[firing].argsort(stable=True)], says, n // 2)
    rest = firing[~torch.isin(firing, chosen)]
    generator = torch.Generator().manual_seed(seed)
    drawn = rest[torch.randperm(len(rest), generator=generator)[: n - len(chosen)]]
    return sorted([*chosen.tolist(), *drawn.tolist()])


def _of_strata(by_density: Int[Tensor, "n"], says: Float[Tensor, "d_sae"], n: int) -> Tensor:
    strata = by_density.tensor_split(N_STRATA)
    sizes = [n * (i + 1) // N_STRATA - n * i // N_STRATA for i in range(N_STRATA)]
    best = [
        its[says[its].argsort(descending=True, stable=True)[:size]]
        for its, size in zip(strata, sizes, strict=True)
    ]
    return torch.cat(best)
