"""How far the predictions move."""

from sae.evaluation.metric import Metric, mean
from sae.evaluation.seen import divergence, n_predictions

KL = Metric(
    name="kl",
    convention="KL(clean || spliced) of the next-token distributions, nats, mean over tokens",
    meaning="from the clean to the spliced predictions, nats",
    sums=(divergence, n_predictions),
    result=mean,
    unit="nats",
    better="lower",
    needs_model=True,
)
