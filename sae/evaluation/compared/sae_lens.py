"""SAELens, `sae_lens/evals.py`: as it is since pull requests 665 (explained variance)
and 711 (mse, July 2026), and as it was before: published tables are older."""

from typing import Any

from torch import Tensor

from sae.evaluation.compared.convention import (
    Convention,
    active_above_0,
    batch_bias,
    batch_error,
    batch_squared_norm,
    explained_by_batch_mean,
    kl_zero_everywhere,
    n_batches,
    score,
    squared_before_the_mean,
    squared_norm,
    width,
    zero_everywhere,
)
from sae.evaluation.metrics.ce_recovered import recovered
from sae.evaluation.metrics.l0 import active
from sae.evaluation.seen import (
    Total,
    clean_loss,
    divergence,
    n_predictions,
    n_tokens,
    spliced_loss,
    squared_error,
)

summed_inputs = Total(lambda seen: seen.inputs.sum(dim=0))


def streamed(error: Any, squares: Any, inputs: Tensor, n: Any) -> Any:
    """Explained variance from moments, which need no mean beforehand."""
    mean = inputs / n
    return 1 - (error / n) / (squares / n - float(mean @ mean))


LEGACY_VARIANCE = Convention(
    name="explained_variance_legacy",
    convention="mean over tokens of 1 - |x - x_hat|^2 / |x - batch mean|^2",
    sums=(explained_by_batch_mean, n_tokens),
    ours="explained_variance_legacy",
)
MISTAKEN_VARIANCE = Convention(
    name="explained_variance",
    convention="1 - E / (S - (S / d_in)^2), E and S the batches' means of |x - x_hat|^2 and |x|^2",
    sums=(batch_error, batch_squared_norm, width, n_batches),
    result=squared_before_the_mean,
    ours="explained_variance",
)
DIVIDED_TWICE = Convention(
    name="mse",
    convention="mean over tokens of |x - x_hat|^2 / tokens of its batch",
    sums=(batch_error, n_tokens),
    ours="mse",
)
BIAS = Convention(
    name="relative_reconstruction_bias",
    convention="E|x_hat|^2 / E[x . x_hat] of each batch, mean over batches",
    sums=(batch_bias, n_batches),
    ours="relative_reconstruction_bias",
)
L0 = Convention(
    name="l0",
    convention="mean number of features that are not 0",
    sums=(active, n_tokens),
    ours="l0",
)

SAE_LENS = (
    Convention(
        name="explained_variance",
        convention="1 - E|x - x_hat|^2 / (E|x|^2 - |E x|^2) over all tokens, from moments",
        sums=(squared_error, squared_norm, summed_inputs, n_tokens),
        result=streamed,
        ours="explained_variance",
    ),
    LEGACY_VARIANCE,
    Convention(
        name="mse",
        convention="|x - x_hat|^2 summed over d_in, mean over tokens",
        sums=(squared_error, n_tokens),
        ours="mse",
    ),
    BIAS,
    L0,
    Convention(
        name="ce_loss_score",
        convention="(zero - spliced) / (zero - clean); zero replaces every position, BOS too",
        sums=(zero_everywhere, spliced_loss, clean_loss, n_predictions),
        result=recovered,
        needs_model=True,
        ours="ce_recovered",
    ),
    Convention(
        name="kl_div_with_sae",
        convention="KL(clean || spliced), mean over tokens",
        sums=(divergence, n_predictions),
        needs_model=True,
        ours="kl",
    ),
    Convention(
        name="kl_div_score",
        convention="(KL_zero - KL_spliced) / KL_zero; zero replaces every position, BOS too",
        sums=(kl_zero_everywhere, divergence),
        result=score,
        needs_model=True,
    ),
)

SAE_LENS_BEFORE = (
    MISTAKEN_VARIANCE,
    LEGACY_VARIANCE,
    DIVIDED_TWICE,
    Convention(
        name="l0",
        convention="mean number of features above 0",
        sums=(active_above_0, n_tokens),
        ours="l0",
    ),
)
