"""The numbers of an evaluation as a table that a person understands."""

from rich.markup import escape
from rich.table import Table

from activation_cache.common.numbers import format_number
from sae.evaluation import EvalReport

MEANINGS = {
    "fvu": "unexplained variance: 0 is perfect, 1 is no better than the mean",
    "explained_variance_legacy": "averaged per token, as older tables print it",
    "mse": "squared error, summed over d_in",
    "cosine": "of activation and reconstruction",
    "l2_ratio": "norm of the reconstruction over the norm of the activation",
    "relative_reconstruction_bias": "below 1 is shrinkage",
    "l0": "active features of a token",
    "dead": "features that never fired",
    "ce_clean": "cross-entropy of the model as it is, nats per token",
    "ce_spliced": "with the reconstruction in place of the activation",
    "ce_mean": "with the mean activation in its place",
    "ce_zero": "with zero in its place",
    "delta_ce": "what the dictionary costs the model, nats",
    "kl": "from the clean to the spliced predictions, nats",
    "ce_recovered": "share of the cost of zero ablation that is avoided",
    "ce_recovered_mean": "the same for mean ablation",
}


def summary_table(report: EvalReport, title: str) -> Table:
    """One row for each number that was measured."""
    metrics = report.metrics()
    table = Table(title=escape(title), title_justify="left", caption_justify="left")
    table.caption = (
        f"on {report.n_tokens:,} held-out tokens; position 0 and special tokens not counted"
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    for name, meaning in MEANINGS.items():
        if name not in metrics:
            continue
        value = format_number(metrics[name])
        if name == "dead":
            value = f"{report.dead:,} of {report.d_sae:,} ({report.dead_fraction:.1%})"
        table.add_row(name, value, meaning)
    return table
