"""The share of the features that are dead."""

from sae.evaluation.metric import Metric
from sae.evaluation.seen import fires

METRIC = Metric(
    name="dead_fraction",
    convention="dead / d_sae",
    meaning="share of the features that never fired",
    sums=(fires,),
    result=lambda fires: int((fires == 0).sum()) / len(fires),
    better="lower",
    in_table=False,  # it is beside `dead`
)
