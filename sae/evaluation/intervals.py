"""How far a number would move on another text of the same kind: a bootstrap by document."""

import math

import torch

from sae.evaluation.groups import DOCUMENT
from sae.evaluation.metric import Accumulator

Interval = tuple[float, float]

N_RESAMPLES = 1000
LEVEL = 0.95
FEWEST_DOCUMENTS = 10
"""Below it the interval of a bootstrap is far too narrow."""

CONVENTION = (
    f"{LEVEL:.0%} interval: percentiles of {N_RESAMPLES:,} resamples of the documents of the text, "
    "each as it is, with replacement. Of the text alone: not of the training or its seed"
)


def intervals(totals: Accumulator, seed: int = 0) -> tuple[int, dict[str, Interval]]:
    """How many documents there are, and the interval of every metric that is made of sums over
    tokens. None where documents are fewer than `FEWEST_DOCUMENTS`."""
    n_documents = totals.n_groups(DOCUMENT)
    if n_documents < FEWEST_DOCUMENTS:
        return n_documents, {}
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    found: dict[str, Interval] = {}
    for name, values in totals.resampled(DOCUMENT, N_RESAMPLES, seed).items():
        low, high = values.quantile(tails).tolist()
        if math.isfinite(low) and math.isfinite(high):
            found[name] = (low, high)
    return n_documents, found
