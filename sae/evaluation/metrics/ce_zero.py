"""The cross-entropy of the model under zero ablation."""

from sae.evaluation.metric import PredictionMetric
from sae.evaluation.seen import n_predictions, zero_loss

METRIC = PredictionMetric(
    name="ce_zero",
    convention="the same with x replaced by 0 at the counted positions",
    meaning="with zero in its place",
    sums=(zero_loss, n_predictions),
    intervention="activations set to zero",
)
