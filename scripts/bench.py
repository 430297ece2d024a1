"""Measure tokens per second beside the floor that the machine sets, in one run.

ceiling-matmul      the encoder's product alone, in float32 and bfloat16
ceiling-copy        moving as many bytes as a training step has to
harvest-forward     reading one residual site, against the bare Hugging Face forward cut there
harvest-stream      the whole stream (text, tokens, forward, mask, buffer), against the same
run-with-cache      TransformerLens' run_with_cache of that site, against the same
features-collect    features of --cache-tokens tokens, against forward passes and encoding
evaluate            all metrics of a dictionary, against the forward passes that it needs
attach-read         a forward pass with a dictionary attached, against a hook and encoding by hand
shuffle             batches out of a shuffle buffer, against a training step on each
step-ARCHITECTURE   whole training steps, against product and copies by themselves
bookkeeping         dead features, counters and logging, against a training step
train-stream        text to trained dictionary, against forward, product and copies by themselves
train-sweep         eight dictionaries on one stream, against one on one
cache-harvest       harvesting into a cache, against harvesting into nothing
cache-read          shuffled batches from a cache, against copying as many rows once
peer-mixing-buffer  the shuffle buffer of the leading peer at 131,072 rows, against the same
toy-instances       a thousand toy models in one process, against a process for each
train-topk          whole trainings on the same rows, ours and with --peer the peers', against the
train-relu          first of ours; with the fit on held-out rows (only with --peer or --only)

With --quality, instead, how well ours and the peers' dictionaries fit the same rows, each peer at
its best learning rate, over seeds.

Floor and row take turns, and the medians of their repeats are compared: on a shared machine only
such ratios mean anything.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from benchmarks import quality
from benchmarks.attach import attach_rows, feature_rows
from benchmarks.cache import cache_harvest_rows, cache_read_rows
from benchmarks.evaluation import evaluation_rows
from benchmarks.harvest import harvest_rows
from benchmarks.measure import BenchFlags, Row
from benchmarks.page import COLUMNS, cells, page_part, place_of
from benchmarks.peers import peer_rows
from benchmarks.quality import qualities
from benchmarks.stream import shuffle_rows, sweep_rows, train_stream_rows
from benchmarks.toy import toy_rows
from benchmarks.training import bookkeeping_rows, ceiling_rows, step_rows
from docs_pages import places_in, put_into_page
from rich.console import Console
from rich.table import Table

from sae.architectures import ARCHITECTURES
from sae.commands.exits import fail, refuse_unwritable, run_command
from sae.commands.flags import parse

PAGE_WIDTH = 150
"""Columns of the table where the output is no wider terminal."""

BENCHMARKS = {
    ceiling_rows: ("ceiling-matmul", "ceiling-copy"),
    harvest_rows: ("harvest-forward", "harvest-stream", "run-with-cache"),
    attach_rows: ("attach-read",),
    feature_rows: ("features-collect",),
    evaluation_rows: ("evaluate",),
    shuffle_rows: ("shuffle",),
    step_rows: tuple(f"step-{architecture}" for architecture in ARCHITECTURES),
    bookkeeping_rows: ("bookkeeping",),
    train_stream_rows: ("train-stream",),
    sweep_rows: ("train-sweep",),
    cache_harvest_rows: ("cache-harvest",),
    cache_read_rows: ("cache-read", "peer-mixing-buffer"),
    toy_rows: ("toy-instances",),
    peer_rows: ("train-topk", "train-relu"),
}


def rows(flags: BenchFlags) -> Iterator[Row]:
    for benchmark, names in BENCHMARKS.items():
        if flags.only is None or flags.only in names:
            yield from benchmark(flags)


def main(arguments: list[str]) -> None:
    flags = parse(BenchFlags, arguments)
    names = [name for measured in BENCHMARKS.values() for name in measured]
    if flags.only is not None and flags.only not in names:
        fail(f"unknown row {flags.only!r}: --only takes one of {', '.join(names)}")
    if flags.page is not None:
        refuse_unwritable(flags.page)
        places_in(flags.page, [place_of(flags)])  # before hours of work
    torch.set_num_threads(flags.threads)
    if flags.quality:
        found = qualities(flags)
        show(flags, found, quality.COLUMNS, [quality.cells(each, found[0]) for each in found])
        return
    measured: list[Row] = []
    for row in rows(flags):
        measured.append(row)
        print(f"{row.name} {row.share_of_floor:.2f} {row.note}", file=sys.stderr)
    show(flags, measured, COLUMNS, [cells(row) for row in measured])


def show(
    flags: BenchFlags,
    measured: Sequence[Any],
    columns: Sequence[str],
    lines: Sequence[Sequence[str]],
) -> None:
    """Put the table where the flags want it."""
    if flags.page is not None:
        part = page_part(flags, columns, lines)
        put_into_page(flags.page, {place_of(flags): part})
    if flags.json:
        print(json.dumps([asdict(each) for each in measured], indent=2))
        return
    table = Table(title=f"{flags.on.type}, {flags.threads} threads, model {flags.model}")
    for column in columns:
        is_text = column in ("row", "note", "library", "architecture")
        table.add_column(column, justify="left" if is_text else "right")
    for line in lines:
        table.add_row(*line)
    console = Console()
    Console(width=max(console.width, PAGE_WIDTH)).print(table)


if __name__ == "__main__":
    run_command(main)
