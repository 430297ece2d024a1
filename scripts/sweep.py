"""Train a grid of dictionaries on one stream of activations, and show which of them nothing beats.

    python scripts/sweep.py GRID.yaml --out runs/sweep

See docs/sweeps.md for the grid file, --help for the flags.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from cli import parse, run_script
from rich.console import Console

from sae.runs import SweepSettings, sweep
from sae.runs.sweep import results_table


@dataclass(frozen=True, kw_only=True)
class Flags(SweepSettings):
    __doc__ = SweepSettings.__doc__

    grid: Annotated[Path, tyro.conf.Positional]
    """YAML file: settings as train.py's flags name them, and under `grid` what varies."""


def main() -> None:
    settings = parse(Flags, sys.argv[1:])
    console = Console()
    rows = sweep(settings, console)
    console.print(results_table(rows))
    for name, file in (("results", "results.json"), ("plot", "pareto.png")):
        console.print(f"{name:8} {settings.out / file}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_script(main)
