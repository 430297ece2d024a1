"""The length of the reconstruction."""

from torch import Tensor

from sae.evaluation.metric import Metric
from sae.evaluation.seen import LEAST_NORM, Seen, n_with_norm


def ratios(seen: Seen) -> Tensor:
    return seen.norm_hat / seen.norm.clamp_min(LEAST_NORM) * seen.has_norm


METRIC = Metric(
    name="l2_ratio",
    convention="mean over tokens of |x_hat| / |x|; without tokens of |x| < 1e-4",
    meaning="norm of the reconstruction over the norm of the activation",
    sums=(ratios, n_with_norm),
)
