"""The metrics, one file each. Whoever adds one adds its file and its line here; another package
names its own under the entry point `featureloom.metrics`."""

from activation_cache.common.plugins import Registry
from sae.evaluation.metric import Metric
from sae.evaluation.metrics.ce_clean import CE_CLEAN
from sae.evaluation.metrics.ce_mean import CE_MEAN
from sae.evaluation.metrics.ce_recovered import CE_RECOVERED
from sae.evaluation.metrics.ce_recovered_mean import CE_RECOVERED_MEAN
from sae.evaluation.metrics.ce_spliced import CE_SPLICED
from sae.evaluation.metrics.ce_zero import CE_ZERO
from sae.evaluation.metrics.cosine import COSINE
from sae.evaluation.metrics.d_sae import D_SAE
from sae.evaluation.metrics.dead import DEAD
from sae.evaluation.metrics.dead_fraction import DEAD_FRACTION
from sae.evaluation.metrics.delta_ce import DELTA_CE
from sae.evaluation.metrics.explained_variance import EXPLAINED_VARIANCE
from sae.evaluation.metrics.explained_variance_legacy import EXPLAINED_VARIANCE_LEGACY
from sae.evaluation.metrics.fvu import FVU
from sae.evaluation.metrics.kl import KL
from sae.evaluation.metrics.l0 import L0
from sae.evaluation.metrics.l1 import L1
from sae.evaluation.metrics.l2_ratio import L2_RATIO
from sae.evaluation.metrics.mse import MSE
from sae.evaluation.metrics.n_tokens import N_TOKENS
from sae.evaluation.metrics.relative_reconstruction_bias import RELATIVE_RECONSTRUCTION_BIAS

BUILT_IN = (
    N_TOKENS,
    FVU,
    EXPLAINED_VARIANCE,
    EXPLAINED_VARIANCE_LEGACY,
    MSE,
    COSINE,
    L2_RATIO,
    RELATIVE_RECONSTRUCTION_BIAS,
    L0,
    L1,
    DEAD,
    DEAD_FRACTION,
    D_SAE,
    CE_CLEAN,
    CE_SPLICED,
    CE_ZERO,
    CE_MEAN,
    DELTA_CE,
    KL,
    CE_RECOVERED,
    CE_RECOVERED_MEAN,
)

METRICS: Registry[Metric] = Registry(
    {metric.name: metric for metric in BUILT_IN},
    "featureloom.metrics",
    lambda found: found.name if isinstance(found, Metric) else None,
    "Metric",
)
"""By name, in the order in which files and tables have them."""
