"""Shrinkage. Rajamanoharan et al. 2024 (arXiv 2404.16014)."""

from torch import Tensor

from sae.evaluation.metric import Metric, ratio
from sae.evaluation.seen import Seen


def squared_outputs(seen: Seen) -> Tensor:
    return seen.norm_hat.square()


def products(seen: Seen) -> Tensor:
    return seen.dot


METRIC = Metric(
    name="relative_reconstruction_bias",
    convention="E|x_hat|^2 / E[x . x_hat] (Rajamanoharan et al. 2024, eq. 10); below 1 is "
    "shrinkage",
    meaning="below 1 is shrinkage",
    sums=(squared_outputs, products),
    result=ratio,
)
