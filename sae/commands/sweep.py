"""Train a grid of dictionaries on one stream of activations, and compare them (docs/sweeps.md)."""

from rich.console import Console

from sae.commands.flags import parse
from sae.evaluation import advice
from sae.runs.sweep import SweepSettings, results_table, sweep


def main(arguments: list[str]) -> None:
    settings = parse(SweepSettings, arguments)
    console = Console()
    rows = sweep(settings, console)
    console.print(results_table(rows))
    for row in rows:
        for line in advice(row.metrics):
            console.print(f"warning: {row.name}: {line}", markup=False, soft_wrap=True)
    for name, file in (("results", "results.json"), ("plot", "pareto.png")):
        console.print(f"{name:8} {settings.out / file}", soft_wrap=True, markup=False)
