"""The numbers of an evaluation in other projects' conventions, as a table."""

from rich.console import Console
from rich.table import Table

from activation_cache.common.numbers import format_number
from sae.evaluation import EvalReport
from sae.evaluation.compared import COMPARED


def print_compared(report: EvalReport, console: Console) -> None:
    """A row for each number, beside the one of ours that is closest; and what was not measured."""
    table = Table(title="in other projects' conventions", title_justify="left")
    table.add_column("project")
    table.add_column("its name")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("formula")
    table.add_column("ours")
    missing: list[str] = []
    for project, conventions in COMPARED.items():
        its = report.compared.get(project, {})
        missing += [
            f"{project} {its_own.name}" for its_own in conventions if its_own.name not in its
        ]
        for number in (number for number in conventions if number.name in its):
            ours = f"{number.ours} {format_number(getattr(report, number.ours))}"
            value = format_number(its[number.name])
            table.add_row(project, number.name, value, number.convention, ours)
        table.add_section()
    console.print(table)
    if missing:
        why = (
            "activations from files have no model" if "activations" in report.text else "not finite"
        )
        console.print(f"not available ({why}): {', '.join(missing)}", markup=False, soft_wrap=True)
