"""The cross-entropy of the model under mean ablation."""

from sae.evaluation.metric import PredictionMetric
from sae.evaluation.seen import mean_loss, n_predictions

METRIC = PredictionMetric(
    name="ce_mean",
    convention="the same with x replaced by the mean at the counted positions",
    meaning="with the mean activation in its place",
    sums=(mean_loss, n_predictions),
    intervention="activations set to their mean",
)
