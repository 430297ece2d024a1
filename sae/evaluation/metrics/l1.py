"""How strong features are, together."""

import torch

from sae.codes import Codes
from sae.evaluation.metric import Metric
from sae.evaluation.seen import Seen, n_tokens


def absolute_values(seen: Seen) -> float:
    values = seen.acts.values if isinstance(seen.acts, Codes) else seen.acts
    return values.abs().to(torch.float64).sum().item()


METRIC = Metric(
    name="l1",
    convention="mean sum of the features' absolute values; decoder rows have unit norm",
    meaning="sum of the features of a token",
    sums=(absolute_values, n_tokens),
    in_table=False,
)
