"""Train a grid of dictionaries on one stream of activations, and show which of them nothing beats.

    python scripts/sweep.py GRID.yaml --out runs/sweep

See docs/sweeps.md for the grid file, --help for the flags.
"""

import sys

from cli import parse, run_script
from rich.console import Console

from sae.runs import SweepSettings, sweep
from sae.runs.sweep import results_table


def main() -> None:
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--grid", *arguments]
    settings = parse(SweepSettings, arguments)
    console = Console()
    rows = sweep(settings, console)
    console.print(results_table(rows))
    console.print(f"results  {settings.out / 'results.json'}", soft_wrap=True)
    console.print(f"plot     {settings.out / 'pareto.png'}", soft_wrap=True)


if __name__ == "__main__":
    run_script(main)
