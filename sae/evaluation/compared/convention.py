"""A number as another project defines it, and the sums that several of them are made of.

Numbers that average ratios of batches, or use a batch's own mean, depend on the batches: here, on
those that the evaluation's text or activations come in. That is theirs, and it is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae.codes import Codes
from sae.evaluation.metric import Metric
from sae.evaluation.seen import Everywhere, Predictions, Seen, Total


@dataclass(frozen=True, kw_only=True)
class Convention(Metric):
    """A number of another project: `name` is its name there, `convention` its formula."""

    ours: str = ""
    """The metric of ours that it is to be read beside, if there is one."""
    meaning: str = ""
    has_interval: bool = False


def of_batch(of: Callable[[Seen], Any]) -> Total:
    """One number for a batch. A batch in which nothing counts has none."""
    return Total(lambda seen: float(of(seen)) if len(seen.x) else 0.0)


n_batches = of_batch(lambda _: 1)

# Of activations and reconstructions --------------------------------------------------------------


def squared_norm(seen: Seen) -> Tensor:
    return seen.norm.square()


def active_above_0(seen: Seen) -> Tensor:
    """L0 [rows] of features that are above 0."""
    values = seen.acts.values if isinstance(seen.acts, Codes) else seen.acts
    return (values > 0).sum(dim=1).to("cpu", torch.float64)


def _explained_of_batch(seen: Seen) -> Tensor:
    deviation = (seen.inputs - seen.inputs.mean(dim=0)).square().sum(dim=1)
    return (1 - seen.error / deviation).sum()


explained_by_batch_mean = of_batch(_explained_of_batch)
"""The sum over a batch's tokens of 1 - |x - x_hat|^2 / |x - mean|^2, with the batch's mean."""

batch_error = of_batch(lambda seen: seen.error.mean())
batch_squared_norm = of_batch(lambda seen: seen.norm.square().mean())
width = of_batch(lambda seen: seen.x.shape[1])

batch_bias = of_batch(lambda seen: seen.norm_hat.square().mean() / seen.dot.mean())
"""E|x_hat|^2 / E[x . x_hat] of a batch."""


def squared_before_the_mean(error: Any, squared_norm: Any, width: Any, n: Any) -> Any:
    """1 - E / (S - (S / d)^2), where E and S are the means over batches of |x - x_hat|^2 and
    |x|^2: meant to be the mean's square, it is the square of the mean of the squares."""
    error, squared_norm, d_in = error / n, squared_norm / n, width / n
    return 1 - error / (squared_norm - (squared_norm / d_in) ** 2)


# Of predictions ----------------------------------------------------------------------------------


def everywhere(seen: Seen) -> Everywhere:
    """What is seen at every position: there where projects are compared."""
    assert seen.everywhere is not None
    return seen.everywhere


def predictions(seen: Seen) -> Predictions:
    """Of the model with every position replaced."""
    found = seen.predictions
    assert found is not None
    return found


def zero_everywhere(seen: Seen) -> Tensor:
    """The cross-entropy of counted predictions where zero replaces every position."""
    return _counted(seen, predictions(everywhere(seen).seen).zero)


def spliced_everywhere(seen: Seen) -> Tensor:
    """The same where the reconstruction does."""
    return _counted(seen, predictions(everywhere(seen).seen).spliced)


def kl_zero_everywhere(seen: Seen) -> Tensor:
    """KL(clean || edited) of counted predictions where zero replaces every position."""
    kl_zero = predictions(everywhere(seen).seen).kl_zero
    assert kl_zero is not None
    return _counted(seen, kl_zero)


def kl_spliced_everywhere(seen: Seen) -> Tensor:
    """The same where the reconstruction does."""
    return _counted(seen, predictions(everywhere(seen).seen).kl)


def score(ablated: Any, spliced: Any) -> Any:
    """The share of an ablation's KL that is avoided."""
    return (ablated - spliced) / ablated


def _counted(seen: Seen, of_predictions: Tensor) -> Tensor:
    values = of_predictions.flatten().to("cpu", torch.float64)
    return values[everywhere(seen).is_counted]
