"""What the dictionary costs the model."""

from sae.evaluation.metric import PredictionMetric, mean
from sae.evaluation.seen import clean_loss, n_predictions, spliced_loss

METRIC = PredictionMetric(
    name="delta_ce",
    label="delta CE",
    convention="ce_spliced - ce_clean, nats; above 0 is worse",
    meaning="what the dictionary costs the model, nats",
    sums=(spliced_loss, clean_loss, n_predictions),
    result=lambda spliced, clean, n: mean(spliced, n) - mean(clean, n),
    better="lower",
)
