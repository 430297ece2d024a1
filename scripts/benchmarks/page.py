"""The rows as a table, on the console and in a page."""

import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
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


def place_of(flags: BenchFlags) -> str:
    """The part of a page that the table belongs into."""
    if flags.quality:
        return "quality"
    if flags.only not in ("train-topk", "train-relu"):
        return "benchmarks"
    return "peers" if flags.rows == "model" else "peers-synthetic"


def page_part(flags: BenchFlags, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The table under a line that says how it was made, in Markdown."""
    device = torch.cuda.get_device_name() if flags.on.type == "cuda" else _processor()
    threads = f"{flags.threads} thread{'' if flags.threads == 1 else 's'}"
    lines = [
        f"Made by `python scripts/bench.py {shlex.join(sys.argv[1:])}` on {date.today()}, commit "
        f"{git_commit()}, torch {torch.__version__}, {device}, {threads}.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines)


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
