"""Which features of a dictionary reappear over seeds, and which a random twin has too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from activation_cache.common.errors import InputError, refuse_below
from activation_cache.common.numbers import format_number
from sae.analysis.stability import VERDICTS
from sae.commands.flags import parse
from sae.runs.stability import (
    FEATURES,
    MEMBERS,
    SUMMARY,
    read_members,
    sweep_stability,
    write_stability,
)

COLUMNS = {
    "pw_mcc": "PW-MCC",
    "mmcs": "MMCS",
    "twin_mmcs": "MMCS twins",
    "random_mmcs": "MMCS random",
    "fvu": "FVU",
    "fvu_without_unstable": "FVU -unstable",
    "delta_ce": "delta CE",
    "delta_ce_without_unstable": "delta CE -unstable",
}


@dataclass(frozen=True, kw_only=True)
class StabilityFlags:
    """Find the features that reappear over seeds, on held-out text.

    The sweep is what `featureloom train --seeds 4 --twins` writes. Every feature of every seed has
    a verdict: stable, subspace, unstable, duplicate, in twins too, or dead.

    Writes stability.json, which says how each number is defined, and for each seed
    members/NAME/stability.parquet, with a row for each feature.
    """

    sweep: Path = field(metadata={"positional": True, "metavar": "SWEEP"})
    """Folder of a sweep over seeds."""
    n_tokens: int = 65_536
    """Held-out tokens to look at."""
    out: Path | None = None
    """Another folder to write to than the sweep's."""
    device: str = "auto"
    """Where to compute: auto (CUDA if there is one), cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        refuse_below(1, n_tokens=self.n_tokens)


def main(arguments: list[str]) -> None:
    flags = parse(StabilityFlags, arguments)
    console = Console()
    members, out = read_members(flags.sweep), flags.out or flags.sweep
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}; name another --out") from error
    if not members.twins:
        console.print(
            "warning: the sweep has no twins: no feature can be told from random weights; train "
            "them with --twins",
            soft_wrap=True,
        )
    found = sweep_stability(members, flags.n_tokens, device=flags.device)
    write_stability(found, out)
    summary = found.summary()
    console.print(f"{found.n_tokens:,} tokens of {found.hook_name}", markup=False)
    console.print(_verdicts(summary["seeds"]))
    console.print(_numbers(summary))
    for name, file in (("summary", SUMMARY), ("features", f"{MEMBERS}/*/{FEATURES}")):
        console.print(f"{name:8} {out / file}", soft_wrap=True, markup=False)


def _verdicts(seeds: Mapping[str, Mapping[str, Any]]) -> Table:
    """How many features there are of each verdict, and what the stable ones carry."""
    table = Table("features", title_justify="left", caption_justify="left")
    table.caption = "variance: of the reconstruction, the share that stable features carry"
    for column in (*VERDICTS, "variance"):
        table.add_column(column, justify="right")
    for name, its in seeds.items():
        counts = (format_number(its["n_features"][verdict]) for verdict in VERDICTS)
        share = its["variance_share"]["stable"]
        table.add_row(name, *counts, "" if share is None else f"{share:.1%}")
    return table


def _numbers(summary: Mapping[str, Any]) -> Table:
    """How near seeds are to each other, and what they lose without their unstable features."""
    table = Table("", caption_justify="left")
    table.caption = "-unstable: without what unstable features add to the reconstruction"
    for column in COLUMNS.values():
        table.add_column(column, justify="right")
    for name, its in {**summary["seeds"], **summary["twins"]}.items():
        table.add_row(name, *(format_number(its.get(column)) for column in COLUMNS))
    return table
