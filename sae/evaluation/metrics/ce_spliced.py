"""The cross-entropy of the model with the dictionary in it."""

from sae.evaluation.metric import Metric, mean
from sae.evaluation.seen import n_predictions, spliced_loss

CE_SPLICED = Metric(
    name="ce_spliced",
    convention="the same with x replaced by x_hat at the counted positions",
    meaning="with the reconstruction in place of the activation",
    sums=(spliced_loss, n_predictions),
    result=mean,
    unit="nats",
    better="lower",
    needs_model=True,
    intervention="dictionary spliced in",
)
