"""The cross-entropy of the model under mean ablation."""

from sae.evaluation.metric import Metric, mean
from sae.evaluation.seen import mean_loss, n_predictions

CE_MEAN = Metric(
    name="ce_mean",
    convention="the same with x replaced by the mean at the counted positions",
    meaning="with the mean activation in its place",
    sums=(mean_loss, n_predictions),
    result=mean,
    unit="nats",
    needs_model=True,
    intervention="activations set to their mean",
)
