"""How far the predictions move."""

from sae.evaluation.metric import PredictionMetric
from sae.evaluation.seen import divergence, n_predictions

METRIC = PredictionMetric(
    name="kl",
    convention="KL(clean || spliced) of the next-token distributions, nats, mean over tokens",
    meaning="from the clean to the spliced predictions, nats",
    sums=(divergence, n_predictions),
    better="lower",
)
