"""The rows as a table, on the console and as a page."""

import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from benchmarks.measure import BenchFlags, Row
from sae.runs.settings.run_settings import git_commit

COLUMNS = (
    *("row", "d_sae", "k", "batch", "dtype", "tokens/s", "per CPU s", "of the floor", "MB"),
    *("FVU", "L0", "note"),
)


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table, under `COLUMNS`."""
    return (
        row.name,
        "" if row.d_sae is None else f"{row.d_sae:,}",
        "" if row.k is None else str(row.k),
        f"{row.batch_tokens:,}",
        row.dtype,
        f"{row.tokens_per_s:,.0f}",
        f"{row.tokens_per_cpu_s:,.0f}",
        f"{row.share_of_floor:.1%}" if row.share_of_floor < 1.5 else f"{row.share_of_floor:.1f} x",
        f"{row.peak_mb:,.0f}",
        "" if row.fvu is None else f"{row.fvu:.4f}",
        "" if row.l0 is None else f"{row.l0:.1f}",
        row.note,
    )


def write_page(path: Path, flags: BenchFlags, rows: Sequence[Row]) -> None:
    """The table with what one needs to read it, in Markdown."""
    device = torch.cuda.get_device_name() if flags.on.type == "cuda" else _processor()
    lines = [
        "# Benchmarks",
        "",
        f"Made by `python scripts/bench.py {shlex.join(sys.argv[1:])}` on {date.today()}, commit "
        f"{git_commit()}, torch {torch.__version__}, {device}, {flags.threads} threads.",
        "`python scripts/bench.py --help` has the flags, and its source what each row is measured "
        "against. Of the floor: the share of the machine's speed at the same product and copies; "
        "for `train-` rows, how many times as fast they are as the first, our own dense float32 "
        "reference. MB: of the process; for `train-` rows, beyond weights and optimiser state. "
        "Tokens per CPU second are what other jobs on the machine disturb least.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
    ]
    path.write_text("\n".join(lines) + "\n")


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
