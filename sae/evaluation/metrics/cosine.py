"""The direction of the reconstruction."""

from torch import Tensor

from sae.evaluation.metric import Metric
from sae.evaluation.seen import Seen, n_with_norm


def cosines(seen: Seen) -> Tensor:
    lengths = (seen.norm * seen.norm_hat).clamp_min(1e-12)
    return seen.dot / lengths * seen.has_norm


METRIC = Metric(
    name="cosine",
    convention="mean over tokens of the cosine of x and x_hat; without tokens of |x| < 1e-4",
    meaning="of activation and reconstruction",
    sums=(cosines, n_with_norm),
    better="higher",
)
