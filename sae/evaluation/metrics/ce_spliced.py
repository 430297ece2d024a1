"""The cross-entropy of the model with the dictionary in it."""

from sae.evaluation.metric import PredictionMetric
from sae.evaluation.seen import n_predictions, spliced_loss

METRIC = PredictionMetric(
    name="ce_spliced",
    convention="the same with x replaced by x_hat at the counted positions",
    meaning="with the reconstruction in place of the activation",
    sums=(spliced_loss, n_predictions),
    better="lower",
    intervention="dictionary spliced in",
)
