"""Harvest a language model's activations into a cache on disk or in object storage.

The same command resumes where an earlier one was interrupted. Under torchrun, every process
harvests its share. With --verify or --repair nothing is added: every byte of the cache is checked,
and what is damaged is named, or harvested again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from activation_cache import ActivationCache, CacheConfig, load_model
from activation_cache.cache.codec import CodecName
from activation_cache.cache.writer import OnProgress
from activation_cache.cache.writer import Progress as Step
from activation_cache.common.dtypes import DTYPES, DtypeName, emulation_warning
from activation_cache.common.ranks import rank_and_world
from activation_cache.stream.source import of_other_text
from activation_cache.text.config import TextConfig
from sae.commands.exits import fail
from sae.commands.flags import parse
from sae.commands.ranks import under_torchrun


@dataclass(frozen=True, kw_only=True)
class HarvestFlags(TextConfig):
    """Harvest a language model's activations into a cache on disk or in object storage.

    The same command resumes a harvest that was interrupted. Under torchrun, each process harvests
    its share. Sites are named as `featureloom train --help` says.
    """

    model: str = "tiny"
    """Language model: tiny (embedded), hub id, folder or .gguf file."""
    hook_name: tuple[str, ...] = ()
    """Site by TransformerLens name or module:PATH (middle residual stream). Repeatable: all sites
    are read in the same forward pass."""
    n_tokens: int = 1_000_000
    """Activation vectors of each site, or fewer if the text ends."""
    held_out_tokens: int = 65_536
    """Activation vectors of held-out documents, a split of their own."""
    context_size: int = 128
    """Tokens in each block that the model sees, BOS included."""
    forward_tokens: int = 4096
    """Tokens in each forward pass of the model, in whole blocks."""
    codec: CodecName = "bfloat16"
    """Storage format."""
    shard_tokens: int = 65_536
    """Activation vectors in a shard, which an interruption may lose."""
    dtype: DtypeName = "float32"
    """Data type of the model."""
    device: str = "auto"
    """Where to compute: auto (CUDA if there is one), cpu, cuda or cuda:N."""
    out: str = field(default="runs/cache", metadata={"aliases": ("--cache",)})
    """Folder or fsspec URL (s3://bucket/folder) of the cache."""
    verify: bool = False
    """Check every byte; damage is named, and exits with 2."""
    repair: bool = False
    """Harvest what is damaged again, and nothing else."""

    def cache_config(self) -> CacheConfig:
        shared = {of.name for of in fields(CacheConfig)} & {of.name for of in fields(self)}
        settings: dict[str, Any] = {name: getattr(self, name) for name in shared}
        return CacheConfig(hook_names=self.hook_name, **settings)


@contextmanager
def progress_bar(console: Console, cache_rows: int) -> Iterator[OnProgress]:
    """Rows, rows/s, bytes written and the time left."""
    bar = Progress(
        TextColumn("harvesting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens, {task.fields[speed]:,.0f} tokens/s, {task.fields[mb]:,.1f} MB"),
        TimeRemainingColumn(),
        console=console,
    )
    task = bar.add_task("", total=cache_rows, speed=0.0, mb=0.0)

    def show(step: Step) -> None:
        bar.start()  # not before there is something to show
        its = bar.tasks[task]
        bar.update(task, advance=step.n_rows, mb=its.fields["mb"] + step.n_bytes / 1e6)
        bar.update(task, speed=its.finished_speed or its.speed or 0.0)

    try:
        yield show
    finally:
        bar.stop()


def harvest(flags: HarvestFlags, console: Console) -> ActivationCache:
    model = load_model(flags.model, device=flags.device, dtype=DTYPES[flags.dtype])
    for warning in (
        emulation_warning("--dtype", model.dtype, model.device),
        of_other_text(flags.model, flags),
    ):
        if warning is not None:
            console.print(warning, markup=False, soft_wrap=True)
    cfg = flags.cache_config()
    with progress_bar(console, cfg.n_tokens + cfg.held_out_tokens) as show:
        return ActivationCache.create(flags.out, model, cfg, on_progress=show)


def check(flags: HarvestFlags, console: Console) -> ActivationCache:
    """Verify, and repair where that was asked for; exits with 2 where something stays damaged."""
    cache = ActivationCache.open(flags.out)
    damaged = cache.verify()
    if damaged and flags.repair:
        for damage in damaged:
            console.print(damage.message, soft_wrap=True, markup=False)
        damaged = cache.repair(cache.load_model(device=flags.device))
    if damaged:
        several = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        for damage in damaged[1:]:
            console.print(damage.message, soft_wrap=True, markup=False)
        remedy = "" if flags.repair else "; --repair harvests damaged shards again"
        fail(damaged[0].message + several + remedy)
    console.print("every byte is as it was written")
    return cache


def summary(cache: ActivationCache) -> Table:
    manifest = cache.manifest
    table = Table(title=escape(f"activations of {manifest.model['name']}, {cache.config.codec}"))
    for column in ("site", "width", "training rows", "held-out rows", "mean norm", "codec's FVU"):
        is_name = column == "site"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for site, width in manifest.widths.items():
        statistics = manifest.statistics.get(site, {"mean_norm": float("nan")})
        table.add_row(
            site,
            f"{width:,}",
            f"{cache.n_rows('train'):,}",
            f"{cache.n_rows('held_out'):,}",
            f"{statistics['mean_norm']:.4g}",
            f"{manifest.codec_fvu(site):.2g}",
        )
    return table


@under_torchrun
def main(arguments: list[str]) -> None:
    flags = parse(HarvestFlags, arguments)
    first = rank_and_world()[0] == 0
    console = Console(quiet=not first)
    if not first and (flags.verify or flags.repair):
        return  # work for one
    cache = (check if flags.verify or flags.repair else harvest)(flags, console)
    console.print(summary(cache))
    rows = f"{cache.n_rows():,} of {cache.config.n_tokens:,} training rows"
    if not cache.manifest.complete:
        console.print(f"unfinished: {rows}; the command that began it resumes it")
    elif cache.n_rows() < cache.config.n_tokens:
        console.print(f"the text ended after {rows}")
    console.print(f"cache  {cache.folder}", soft_wrap=True, markup=False)
