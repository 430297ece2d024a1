"""Train a grid of dictionaries on one stream of activations, and compare them (docs/sweeps.md)."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sae.commands.flags import parse
from sae.evaluation import advice
from sae.pages.pareto import SweepRow
from sae.runs.sweep import SweepSettings, results_table, sweep


def main(arguments: list[str]) -> None:
    settings = parse(SweepSettings, arguments)
    console = Console()
    print_results(sweep(settings, console), settings.out, console)


def print_results(rows: Sequence[SweepRow], out: Path, console: Console) -> None:
    """The table of the members, what is odd about them, and where the files are."""
    console.print(results_table(rows))
    for row in rows:
        for line in advice(row.metrics):
            console.print(f"warning: {row.name}: {line}", markup=False, soft_wrap=True)
    for name, file in (("results", "results.json"), ("plot", "pareto.png")):
        console.print(f"{name:8} {out / file}", soft_wrap=True, markup=False)
