"""Train a grid of dictionaries on one stream of activations, and show which of them nothing beats.

    python scripts/sweep.py GRID.yaml --out runs/sweep

See docs/sweeps.md for the grid file, --help for the flags.
"""

import sys

from cli import parse, run_script
from rich.console import Console

from sae.runs.sweep import SweepSettings, results_table, sweep


def main() -> None:
    settings = parse(SweepSettings, sys.argv[1:])
    console = Console()
    rows = sweep(settings, console)
    console.print(results_table(rows))
    for name, file in (("results", "results.json"), ("plot", "pareto.png")):
        console.print(f"{name:8} {settings.out / file}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_script(main)
