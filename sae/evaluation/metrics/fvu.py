"""The fraction of the variance that is left unexplained."""

from sae.evaluation.metric import Metric, ratio
from sae.evaluation.seen import squared_deviation, squared_error

METRIC = Metric(
    name="fvu",
    label="FVU",
    convention="sum |x - x_hat|^2 / sum |x - mean|^2, both sums over all tokens, divided once "
    "(pooled, centred)",
    meaning="unexplained variance: 0 is perfect, 1 is no better than the mean",
    sums=(squared_error, squared_deviation),
    result=ratio,
    better="lower",
)
