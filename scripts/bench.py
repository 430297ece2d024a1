"""Measure tokens per second beside the floor that the machine sets, in one run.

harvest-forward  reading one residual site, against the bare Hugging Face forward cut at that layer
harvest-stream   the whole stream (text, tokens, forward, mask, shuffle buffer), against the same

Floor and row take turns, and the medians of their repeats are compared: on a shared machine only
such ratios mean anything.
"""

import copy
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

import torch
from cli import fail, parse, run_script
from rich.console import Console
from rich.table import Table

from activation_cache import HarvestConfig, LanguageModel, harvest, load_model
from activation_cache.source import ActivationSource
from sae.runs.settings import DTYPES

NAMES = ("harvest-forward", "harvest-stream")
GPT2_SHAPE = "gpt2-shape"


@dataclass(frozen=True, kw_only=True)
class BenchFlags:
    """Measure tokens per second beside the floor that the machine sets."""

    model: str = GPT2_SHAPE
    """gpt2-shape (GPT-2 small with random weights), tiny, a hub id, a folder or a .gguf file."""
    layer: int = 6
    """The layer before which the forward stops."""
    context_size: int = 128
    """Tokens in each block."""
    forward_tokens: int = 2048
    """Tokens in each forward pass."""
    buffer_tokens: int = 16_384
    """Rows in the shuffle buffer."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the model."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 2
    """Threads of torch on the CPU."""
    repeats: int = 7
    """Measurements of each row; the median counts."""
    only: str | None = None
    """Measure just the row of this name."""
    json: bool = False
    """Print the rows as JSON."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement, by the names that readers of the JSON rely on."""

    name: str
    backend: str
    d_in: int
    d_sae: int | None = None
    k: int | None = None
    batch_tokens: int
    dtype: str
    threads: int
    tokens_per_s: float
    tokens_per_cpu_s: float
    floor_tokens_per_s: float
    share_of_floor: float
    peak_mb: float
    fvu: float | None = None


def gpt2_shape(flags: BenchFlags) -> LanguageModel:
    """GPT-2 small with random weights, reading the embedded model's tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tiny = load_model("tiny", device=flags.device)
    hf: Any = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0))
    return LanguageModel(GPT2_SHAPE, hf.to(tiny.device, DTYPES[flags.dtype]), tiny.tokenizer)


def bare_forward(model: LanguageModel, layer: int) -> torch.nn.Module:
    """The model's body without the blocks from `layer` on, and without any hook."""
    body: Any = copy.copy(model.hf.base_model)
    body._modules = dict(body._modules)
    for name, blocks in body.named_children():
        if isinstance(blocks, torch.nn.ModuleList):
            body._modules[name] = blocks[:layer]
            body.config = copy.deepcopy(body.config)
            body.config.num_hidden_layers = layer
    return body


def measure(
    row: Callable[[], int], floor: Callable[[], int], repeats: int, device: torch.device
) -> tuple[float, float, float, float]:
    """Median tokens/s and tokens per CPU second of the row, the floor's, and the median ratio."""

    def once(work: Callable[[], int]) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu)

    for work in (floor, row):
        once(work)
    pairs = [(once(row), once(floor)) for _ in range(repeats)]
    return (
        statistics.median(ours[0] for ours, _ in pairs),
        statistics.median(ours[1] for ours, _ in pairs),
        statistics.median(bare[0] for _, bare in pairs),
        statistics.median(ours[1] / bare[1] for ours, bare in pairs),
    )


def rows(flags: BenchFlags) -> Iterator[Row]:
    model = (
        gpt2_shape(flags)
        if flags.model == GPT2_SHAPE
        else load_model(flags.model, device=flags.device, dtype=DTYPES[flags.dtype])
    )
    site = f"blocks.{flags.layer}.hook_resid_pre"
    counted = flags.forward_tokens // flags.context_size * (flags.context_size - 1)
    cfg = HarvestConfig(
        hook_names=(site,),
        context_size=flags.context_size,
        forward_tokens=flags.forward_tokens,
        batch_tokens=counted,
        buffer_tokens=max(flags.buffer_tokens, counted),
    )
    (tokens,) = islice(ActivationSource(model, cfg).token_blocks("train", repeat=False), 1)
    tokens = tokens.to(model.device)
    body = bare_forward(model, flags.layer)
    stream = iter(harvest(model, cfg))

    @torch.no_grad()
    def floor() -> int:
        body(tokens, use_cache=False)
        return tokens.numel()

    def forward() -> int:
        model.activations(tokens, [site])
        return tokens.numel()

    def batch() -> int:
        next(stream)  # as many rows as one forward pass counts
        return tokens.numel()

    for name, work in zip(NAMES, (forward, batch), strict=True):
        if flags.only in (None, name):
            wall, cpu, bare, share = measure(work, floor, flags.repeats, model.device)
            yield Row(
                name=name,
                backend=model.device.type,
                d_in=model.width(site),
                batch_tokens=tokens.numel(),
                dtype=flags.dtype,
                threads=flags.threads,
                tokens_per_s=wall,
                tokens_per_cpu_s=cpu,
                floor_tokens_per_s=bare,
                share_of_floor=share,
                peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            )


def main() -> None:
    flags = parse(BenchFlags, sys.argv[1:])
    if flags.only is not None and flags.only not in NAMES:
        fail(f"unknown row {flags.only!r}: --only takes one of {', '.join(NAMES)}")
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
