"""The tables of a full evaluation: a dictionary beside baselines, and what its error is made of."""

from collections.abc import Mapping

from rich.table import Table

from activation_cache.common.numbers import format_number
from sae.analysis.error import ErrorSplit
from sae.evaluation import METRICS, EvalReport
from sae.evaluation.baselines import BASELINES
from sae.pages.run_report import COMPARED, SPLIT_ROWS
from sae.runs.full_evaluation import FullReport


def baselines_table(full: FullReport) -> Table:
    """The numbers that decide, of the dictionary and of each baseline."""
    table = Table(title="beside baselines", title_justify="left", caption_justify="left")
    table.caption = f"k = {full.k}, the dictionary's L0 on text that it was trained on"
    table.add_column("", no_wrap=True)
    for name in COMPARED:
        table.add_column(METRICS[name].title, justify="right", no_wrap=True)
    reports: Mapping[str, EvalReport] = {"the dictionary": full.dictionary, **full.baselines}
    for name, report in reports.items():
        numbers = (format_number(report.metrics().get(of)) for of in COMPARED)
        table.add_row(name, *numbers)
    table.caption += "; " + "; ".join(f"{name}: {BASELINES[name][0]}" for name in full.baselines)
    return table


def error_table(split: ErrorSplit) -> Table:
    """What a linear map of x predicts of the error, beside what predicts it trivially."""
    table = Table(title="what is linear in the activation", title_justify="left")
    table.caption_justify = "left"
    for heading in ("of", "predicted from", "R2"):
        table.add_column(heading, justify="right" if heading == "R2" else "left")
    table.caption = (
        f"on {split.n_test_documents:,} held-out documents, maps fitted on "
        f"{split.n_fit_documents:,} others; FVU {format_number(split.fvu)}, "
        f"{format_number(split.fvu_linear)} with the linear part added"
    )
    for of, by, name in SPLIT_ROWS:
        table.add_row(of, by, format_number(getattr(split, name)))
    return table
