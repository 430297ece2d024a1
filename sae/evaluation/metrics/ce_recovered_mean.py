"""What the dictionary saves of the cost of mean ablation."""

from sae.evaluation.metric import PredictionMetric
from sae.evaluation.metrics.ce_recovered import recovered
from sae.evaluation.seen import clean_loss, mean_loss, n_predictions, spliced_loss

METRIC = PredictionMetric(
    name="ce_recovered_mean",
    convention="(ce_mean - ce_spliced) / (ce_mean - ce_clean)",
    meaning="the same for mean ablation",
    sums=(mean_loss, spliced_loss, clean_loss, n_predictions),
    result=recovered,
    unit="",
    better="higher",
)
