"""The same as the FVU, the other way round."""

from sae.evaluation.metric import Metric, ratio
from sae.evaluation.seen import squared_deviation, squared_error

METRIC = Metric(
    name="explained_variance",
    convention="1 - fvu",
    meaning="1 - fvu",
    sums=(squared_error, squared_deviation),
    result=lambda error, deviation: 1.0 - ratio(error, deviation),
    better="higher",
    in_table=False,
)
