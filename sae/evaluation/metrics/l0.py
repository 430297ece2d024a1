"""How many features are active."""

from sae.evaluation.metric import Metric, mean
from sae.evaluation.seen import fires, n_tokens

METRIC = Metric(
    name="l0",
    label="L0",
    convention="mean number of features that are not 0",
    meaning="active features of a token",
    sums=(fires, n_tokens),
    result=lambda fires, n: mean(int(fires.sum()), n),
)
