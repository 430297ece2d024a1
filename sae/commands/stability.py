"""Which features of a dictionary reappear over seeds, and which a random twin has too."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from activation_cache.common.errors import InputError, refuse_below
from activation_cache.common.numbers import format_number
from sae.analysis.stability import VERDICTS
from sae.commands.flags import parse
from sae.pages.browser.over_seeds import STABILITY
from sae.runs.stability import (
    MEMBERS,
    SUMMARY,
    read_members,
    show_on_pages,
    sweep_stability,
    write_stability,
)

NEAR = {
    "pw_mcc": "PW-MCC",
    "mmcs": "MMCS",
    "twin_mmcs": "MMCS, twins",
    "random_mmcs": "MMCS, random",
}
FIT = {
    "fvu": "FVU",
    "fvu_without_unstable": "FVU without unstable",
    "delta_ce": "delta CE",
    "delta_ce_without_unstable": "delta CE without unstable",
}


@dataclass(frozen=True, kw_only=True)
class StabilityFlags:
    """Find the features that reappear over seeds, on held-out text.

    The sweep is what `featureloom train --seeds 4 --twins` writes. Every feature of every seed has
    a verdict: stable, subspace, unstable, duplicate, in twins too, or dead.

    Writes stability.json, which says how each number is defined, and for each seed
    members/NAME/stability.parquet, with a row for each feature. The pages of features that were
    collected (`featureloom features`) show it.
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
            "warning: the sweep has no twins: nothing shows what random weights have too; train "
            "them with --twins",
            soft_wrap=True,
        )
    found = sweep_stability(members, flags.n_tokens, device=flags.device)
    write_stability(found, out)
    summary = found.summary()
    console.print(f"{found.n_tokens:,} tokens of {found.hook_name}", markup=False)
    for table in _tables(summary):
        console.print(table)
    for name, file in (("summary", SUMMARY), ("features", f"{MEMBERS}/*/{STABILITY}")):
        console.print(f"{name:8} {out / file}", soft_wrap=True, markup=False)
    if out == flags.sweep:
        for page in show_on_pages(members, flags.sweep):
            console.print(f"{'page':8} {page}", soft_wrap=True, markup=False)


def _tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    """How many features there are of each verdict, how near seeds are to each other, and what they
    lose without their unstable features. Three, so that a terminal of 80 columns shows all."""
    seeds = summary["seeds"]
    counts = {name: its["n_features"] for name, its in seeds.items()}
    yield _table("features", {verdict: verdict for verdict in VERDICTS}, counts)
    yield _table("mean decoder cosines", NEAR, seeds)
    fit = {
        name: its | {"stable": its.get("variance_share", {}).get("stable")}
        for name, its in {**seeds, **summary["twins"]}.items()
    }
    columns = {"stable": "variance of stable ones", **FIT}
    yield _table("reconstruction, and what features are to it", columns, fit)


def _table(title: str, columns: Mapping[str, str], rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("member", title=title, title_justify="left")
    for column in columns.values():
        table.add_column(column, justify="right")
    for name, its in rows.items():
        table.add_row(name, *(format_number(its.get(column)) for column in columns))
    return table
