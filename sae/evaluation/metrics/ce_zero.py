"""The cross-entropy of the model under zero ablation."""

from sae.evaluation.metric import Metric, mean
from sae.evaluation.seen import n_predictions, zero_loss

CE_ZERO = Metric(
    name="ce_zero",
    convention="the same with x replaced by 0 at the counted positions",
    meaning="with zero in its place",
    sums=(zero_loss, n_predictions),
    result=mean,
    unit="nats",
    needs_model=True,
    intervention="activations set to zero",
)
