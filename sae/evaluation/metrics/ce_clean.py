"""The cross-entropy of the model as it is."""

from sae.evaluation.metric import PredictionMetric
from sae.evaluation.seen import clean_loss, n_predictions

METRIC = PredictionMetric(
    name="ce_clean",
    convention="cross-entropy of the unchanged model, nats per token, over predictions whose last "
    "input token is counted",
    meaning="cross-entropy of the model as it is, nats per token",
    sums=(clean_loss, n_predictions),
    intervention="model left alone",
)
