"""The numbers of an evaluation in other projects' conventions, as a table."""

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from activation_cache.common.numbers import format_number
from sae.evaluation import EvalReport
from sae.evaluation.compared import COMPARED, Convention


def print_compared(report: EvalReport, console: Console) -> None:
    """The numbers of each project, beside those of ours that are closest; and in one line, what
    could not be measured."""
    table = Table(title="in other projects' conventions", title_justify="left")
    table.add_column("number", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("ours", justify="right", no_wrap=True)
    table.add_column("formula")
    missing: list[str] = []
    for project, conventions in COMPARED.items():
        its = report.compared.get(project, {})
        missing += (f"{project} {of.name}" for of in conventions if of.name not in its)
        if its:
            table.add_section()
            table.add_row(f"[bold]{project}")
        for convention in conventions:
            if convention.name in its:
                table.add_row(*_cells(convention, its[convention.name], report))
    console.print(table)
    if missing:
        without_model = "activations" in report.text
        why = "activations from files have no model" if without_model else "not finite"
        console.print(f"not available ({why}): {', '.join(missing)}", markup=False, soft_wrap=True)


def _cells(convention: Convention, value: float, report: EvalReport) -> Iterator[str]:
    """As a row of the table: our number is named where its name is another."""
    name, ours = convention.name, convention.ours
    yield name
    yield format_number(value)
    yield format_number(getattr(report, ours)) if ours else ""
    is_other = f" (ours: {ours})" if ours not in ("", name) else ""
    yield escape(convention.convention + is_other)
