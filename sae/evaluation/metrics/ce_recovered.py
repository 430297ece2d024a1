"""What the dictionary saves of the cost of zero ablation."""

from typing import Any

from sae.evaluation.metric import PredictionMetric, mean, ratio
from sae.evaluation.seen import clean_loss, n_predictions, spliced_loss, zero_loss


def recovered(ablated: Any, spliced: Any, clean: Any, n: Any) -> Any:
    """The share of what an ablation costs that the reconstruction gets back."""
    ce_ablated, ce_spliced, ce_clean = (mean(total, n) for total in (ablated, spliced, clean))
    return ratio(ce_ablated - ce_spliced, ce_ablated - ce_clean)


METRIC = PredictionMetric(
    name="ce_recovered",
    convention="(ce_zero - ce_spliced) / (ce_zero - ce_clean)",
    meaning="share of the cost of zero ablation that is avoided",
    sums=(zero_loss, spliced_loss, clean_loss, n_predictions),
    result=recovered,
    unit="",
    better="higher",
)
