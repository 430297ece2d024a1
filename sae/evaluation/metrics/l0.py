"""How many features are active."""

import torch
from torch import Tensor

from sae.codes import Codes
from sae.evaluation.metric import Metric
from sae.evaluation.seen import Seen, n_tokens


def active(seen: Seen) -> Tensor:
    acts = seen.acts
    counts = acts.counts if isinstance(acts, Codes) else (acts != 0).sum(dim=1)
    return counts.to("cpu", torch.float64)


METRIC = Metric(
    name="l0",
    label="L0",
    convention="mean number of features that are not 0",
    meaning="active features of a token",
    sums=(active, n_tokens),
)
