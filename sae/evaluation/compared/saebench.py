"""SAEBench 0.6, `evals/core/main.py`: SAELens' evaluation as it was, with BOS spliced too."""

from sae.evaluation.compared.convention import (
    Convention,
    kl_spliced_everywhere,
    kl_zero_everywhere,
    score,
    spliced_everywhere,
    zero_everywhere,
)
from sae.evaluation.compared.sae_lens import (
    BIAS,
    DIVIDED_TWICE,
    L0,
    LEGACY_VARIANCE,
    MISTAKEN_VARIANCE,
)
from sae.evaluation.metrics.ce_recovered import recovered
from sae.evaluation.seen import clean_loss, n_predictions

SAEBENCH = (
    MISTAKEN_VARIANCE,
    LEGACY_VARIANCE,
    DIVIDED_TWICE,
    BIAS,
    L0,
    Convention(
        name="ce_loss_score",
        convention="(zero - spliced) / (zero - clean); both replace every position, BOS too",
        sums=(zero_everywhere, spliced_everywhere, clean_loss, n_predictions),
        result=recovered,
        needs_model=True,
        ours="ce_recovered",
    ),
    Convention(
        name="kl_div_with_sae",
        convention="KL(clean || spliced), mean over tokens; every position is spliced, BOS too",
        sums=(kl_spliced_everywhere, n_predictions),
        needs_model=True,
        ours="kl",
    ),
    Convention(
        name="kl_div_score",
        convention="(KL_zero - KL_spliced) / KL_zero; both replace every position, BOS too",
        sums=(kl_zero_everywhere, kl_spliced_everywhere),
        result=score,
        needs_model=True,
    ),
)
