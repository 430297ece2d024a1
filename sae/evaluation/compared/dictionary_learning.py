"""dictionary_learning, `evaluation.py`: every number is that of a batch, averaged over batches.

Where its tokenizer has a padding token, it leaves out the predictions of that token: of ours none.
"""

import torch

from sae.evaluation.compared.convention import (
    Convention,
    everywhere,
    n_batches,
    of_batch,
    predictions,
)
from sae.evaluation.compared.sae_lens import BIAS
from sae.evaluation.metrics.l0 import active
from sae.evaluation.seen import Seen


def _explained(seen: Seen) -> float:
    left = (seen.inputs - seen.outputs).var(dim=0).sum()
    return float(1 - left / seen.inputs.var(dim=0).sum())


def _recovered(seen: Seen) -> float:
    its = predictions(everywhere(seen).seen)
    each = (of.to("cpu", torch.float64) for of in (its.zero, its.spliced, its.clean))
    zero, spliced, clean = (float(of.mean()) for of in each)
    return (spliced - zero) / (clean - zero)


explained_by_spread = of_batch(_explained)
batch_distance = of_batch(lambda seen: seen.error.sqrt().mean())
batch_active = of_batch(lambda seen: active(seen).mean())
batch_recovered = of_batch(_recovered)

DICTIONARY_LEARNING = (
    Convention(
        name="frac_variance_explained",
        convention="1 - sum_d Var(x - x_hat) / sum_d Var(x) of each batch: a constant error is "
        "not seen",
        sums=(explained_by_spread, n_batches),
        ours="explained_variance",
    ),
    Convention(
        name="l2_loss",
        convention="mean of |x - x_hat|, not squared",
        sums=(batch_distance, n_batches),
        ours="mse",
    ),
    Convention(
        name="l0",
        convention="features that are not 0: mean of each batch, mean over batches",
        sums=(batch_active, n_batches),
        ours="l0",
    ),
    BIAS,
    Convention(
        name="frac_recovered",
        convention="(spliced - zero) / (clean - zero) of each batch; both replace every position, "
        "and all predictions count",
        sums=(batch_recovered, n_batches),
        needs_model=True,
        ours="ce_recovered",
    ),
)
