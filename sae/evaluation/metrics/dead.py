"""Dead features."""

from sae.evaluation.metric import Metric
from sae.evaluation.seen import fires

METRIC = Metric(
    name="dead",
    convention="features that fired on none of the n_tokens",
    meaning="features that never fired",
    sums=(fires,),
    result=lambda fires: int((fires == 0).sum()),
    better="lower",
    text=lambda of: f"{of['dead']:,} of {of['d_sae']:,} ({of['dead_fraction']:.1%})",
)
