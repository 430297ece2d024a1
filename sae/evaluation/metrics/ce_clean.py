"""The cross-entropy of the model as it is."""

from sae.evaluation.metric import Metric, mean
from sae.evaluation.seen import clean_loss, n_predictions

CE_CLEAN = Metric(
    name="ce_clean",
    convention="cross-entropy of the unchanged model, nats per token, over predictions whose last "
    "input token is counted",
    meaning="cross-entropy of the model as it is, nats per token",
    sums=(clean_loss, n_predictions),
    result=mean,
    unit="nats",
    needs_model=True,
    intervention="model left alone",
)
