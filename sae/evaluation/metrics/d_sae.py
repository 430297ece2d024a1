"""The width of the dictionary."""

from sae.evaluation.metric import Metric
from sae.evaluation.seen import fires

METRIC = Metric(
    name="d_sae",
    convention="number of features",
    meaning="number of features",
    sums=(fires,),
    result=len,
    in_table=False,  # it is beside `dead`
)
