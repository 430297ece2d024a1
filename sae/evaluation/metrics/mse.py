"""The squared error."""

from sae.evaluation.metric import Metric
from sae.evaluation.seen import n_tokens, squared_error

METRIC = Metric(
    name="mse",
    convention="|x - x_hat|^2 summed over d_in, mean over tokens",
    meaning="squared error, summed over d_in",
    sums=(squared_error, n_tokens),
    better="lower",
)
