"""The metrics, one file each, which calls its metric `METRIC`. Whoever adds one adds its file and
its name to `OURS`; another package names its own under the entry point `featureloom.metrics`."""

from importlib import import_module

from activation_cache.common.plugins import Registry
from sae.evaluation.metric import Metric

OURS = (
    *("n_tokens", "fvu", "explained_variance", "explained_variance_legacy", "mse", "cosine"),
    *("l2_ratio", "relative_reconstruction_bias", "l0", "l1", "dead", "dead_fraction", "d_sae"),
    *("ce_clean", "ce_spliced", "ce_zero", "ce_mean", "delta_ce", "kl", "ce_recovered"),
    "ce_recovered_mean",
)
"""In the order in which files and tables have them."""

METRICS: Registry[Metric] = Registry(
    {name: import_module(f"{__name__}.{name}").METRIC for name in OURS},
    "featureloom.metrics",
    lambda found: found.name if isinstance(found, Metric) else None,
    "Metric",
)
"""By name."""
