"""The numbers of an evaluation as a table that a person understands."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from activation_cache.common.numbers import format_number
from sae.evaluation import METRICS, EvalReport, advice


def summary_table(report: EvalReport, title: str, *, all_positions: bool = False) -> Table:
    """One row for each number that was measured."""
    metrics = report.metrics()
    table = Table(title=escape(title), title_justify="left", caption_justify="left")
    skipped = "" if all_positions else "; position 0 and special tokens not counted"
    what = "activations" if "activations" in report.text else f"tokens{skipped}"
    table.caption = f"on {report.n_tokens:,} held-out {what}"
    if report.intervals:
        table.caption += f"; ± half the 95% interval over {report.n_documents:,} documents"
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("meaning")
    for metric in METRICS.values():
        if metric.in_table and metric.name in metrics:
            value = metric.text(metrics) if metric.text else format_number(metrics[metric.name])
            table.add_row(metric.name, value + _half_width(report, metric.name), metric.meaning)
    return table


def _half_width(report: EvalReport, name: str) -> str:
    if name not in report.intervals:
        return ""
    low, high = report.intervals[name]
    return f" ± {format_number(float(f'{(high - low) / 2:.1g}'))}"


def print_advice(report: EvalReport, console: Console) -> None:
    """Warn of numbers that make the dictionary of little use."""
    for line in advice(report.metrics()):
        console.print(f"warning: {line}", markup=False, soft_wrap=True)
