"""Measure tokens per second beside the floor that the machine sets, in one run.

harvest-forward     reading one residual site, against the bare Hugging Face forward cut there
harvest-stream      the whole stream (text, tokens, forward, mask, buffer), against the same
cache-harvest       harvesting into a cache, against harvesting into nothing
cache-read          shuffled batches from a cache, against copying as many rows once
peer-mixing-buffer  the shuffle buffer of the leading peer at 131,072 rows, against the same

Floor and row take turns, and the medians of their repeats are compared: on a shared machine only
such ratios mean anything.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

import torch
from benchmarks.cache import cache_harvest_rows, cache_read_rows
from benchmarks.harvest import harvest_rows
from benchmarks.measure import BenchFlags, Row
from cli import fail, parse, run_script
from rich.console import Console
from rich.table import Table

BENCHMARKS = {
    harvest_rows: ("harvest-forward", "harvest-stream"),
    cache_harvest_rows: ("cache-harvest",),
    cache_read_rows: ("cache-read", "peer-mixing-buffer"),
}


def rows(flags: BenchFlags) -> Iterator[Row]:
    for benchmark, names in BENCHMARKS.items():
        if flags.only is None or flags.only in names:
            yield from benchmark(flags)


def main() -> None:
    flags = parse(BenchFlags, sys.argv[1:])
    names = [name for measured in BENCHMARKS.values() for name in measured]
    if flags.only is not None and flags.only not in names:
        fail(f"unknown row {flags.only!r}: --only takes one of {', '.join(names)}")
    torch.set_num_threads(flags.threads)
    measured = list(rows(flags))
    if flags.json:
        print(json.dumps([asdict(row) for row in measured], indent=2))
        return
    table = Table(title=f"{flags.model}, {flags.dtype}, {flags.threads} threads")
    for column in ("row", "tokens/s", "tokens per CPU s", "floor tokens/s", "share of the floor"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for row in measured:
        table.add_row(
            row.name,
            f"{row.tokens_per_s:,.0f}",
            f"{row.tokens_per_cpu_s:,.0f}",
            f"{row.floor_tokens_per_s:,.0f}",
            f"{row.share_of_floor:.1%}",
        )
    Console().print(table)


if __name__ == "__main__":
    run_script(main)
