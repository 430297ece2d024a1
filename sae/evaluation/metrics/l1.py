"""How strong features are, together."""

import torch
from torch import Tensor

from sae.codes import Codes
from sae.evaluation.metric import Metric
from sae.evaluation.seen import Seen, n_tokens


def absolute_values(seen: Seen) -> Tensor:
    codes = seen.acts if isinstance(seen.acts, Codes) else Codes.from_dense(seen.acts)
    lengths = codes.values.abs()
    if seen.decoder_norms is not None:
        lengths = lengths * seen.decoder_norms[codes.indices]
    return lengths.to("cpu", torch.float64).sum(dim=1)


METRIC = Metric(
    name="l1",
    convention="mean sum of the features' absolute values, each times the norm of its decoder row "
    "(1 for dictionaries that were trained here)",
    meaning="sum of the features of a token",
    sums=(absolute_values, n_tokens),
    in_table=False,
)
