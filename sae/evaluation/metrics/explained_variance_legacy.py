"""Explained variance as a mean over tokens, for comparison with older tables."""

from torch import Tensor

from sae.evaluation.metric import Metric
from sae.evaluation.seen import Seen, n_tokens


def explained(seen: Seen) -> Tensor:
    return 1.0 - seen.error / seen.deviation.clamp_min(1e-12)


METRIC = Metric(
    name="explained_variance_legacy",
    convention="mean over tokens of 1 - |x - x_hat|^2 / |x - mean|^2, with the mean of all "
    "tokens; SAELens before 2026 and SAEBench print it with each batch's mean",
    meaning="averaged per token, as older tables print it",
    sums=(explained, n_tokens),
    better="higher",
)
