"""Reproduce Toy Models of Superposition (Elhage et al. 2022): every figure, every claim.

    featureloom papers toy-models all --quick
    featureloom papers toy-models geometry --n 400 --m 30 --instances 20

Figures and `result.json` are written to --out. docs/papers/toy_models.md says what was found.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.table import Table

from activation_cache.common.errors import InputError, refuse_below
from activation_cache.common.lock import folder_lock
from activation_cache.model.loading import resolve_device
from sae.commands.flags import parse
from sae.papers.claims import Claim, read_claims, write_result
from sae.papers.toy_models.section import Scale
from sae.papers.toy_models.work import Finished, Section, finished_sections

SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True, kw_only=True)
class ToyModelsFlags:
    """Reproduce Toy Models of Superposition: figures, numbers, and a table of claims.

    Thresholds belong to the paper's sizes: with --n, --m or --densities, figures and numbers are
    made, but no claims are judged.
    """

    section: Literal["all", Section] = field(default="all", metadata={"positional": True})
    """Part of the paper."""
    quick: bool = False
    """Minutes instead of a quarter of an hour: fewer seeds and steps."""
    seed: int = 0
    """The first seed."""
    seeds: int | None = None
    """How many seeds, counted from --seed (5, or 2 with --quick)."""
    n: int | None = None
    """Features, in sections with one model."""
    m: int | None = None
    """Hidden dimensions, in sections with one model."""
    densities: tuple[float, ...] = ()
    """Probability that a feature is active; repeatable."""
    instances: int | None = None
    """Restarts of a setting; of geometry, densities on the curve."""
    steps: int | None = None
    """Optimizer steps."""
    device: str = "auto"
    """Where to compute: auto (CUDA if there is one), cpu, cuda or cuda:N."""
    workers: int | None = None
    """Sections at a time, each on one core (one for each core)."""
    out: Path = Path("runs/toy-models")
    """Folder for figures and result.json; other sections' results are kept."""

    def __post_init__(self) -> None:
        refuse_below(1, seeds=self.seeds, n=self.n, m=self.m, instances=self.instances)
        refuse_below(1, steps=self.steps, workers=self.workers)
        for density in self.densities:
            if not 0 < density <= 1:
                raise InputError(f"--densities must lie in (0, 1], got {density:g}")

    @property
    def scale(self) -> Scale:
        n_seeds = self.seeds or (2 if self.quick else 5)
        return Scale(
            quick=self.quick,
            seeds=tuple(range(self.seed, self.seed + n_seeds)),
            n=self.n,
            m=self.m,
            densities=self.densities or None,
            instances=self.instances,
            steps=self.steps,
            device=str(resolve_device(self.device)),
        )


def main(arguments: list[str]) -> None:
    flags = parse(ToyModelsFlags, arguments)
    console = Console()
    names = SECTIONS if flags.section == "all" else (flags.section,)
    with folder_lock(flags.out):
        flags.out.mkdir(parents=True, exist_ok=True)
        for done in finished_sections(names, flags.scale, flags.out, flags.workers):
            write_result(flags.out, done.section, done.claims, done.about)
            show(done, console)
    console.print(
        f"{summary(read_claims(flags.out))}\nwritten to {flags.out}", soft_wrap=True, markup=False
    )


def show(done: Finished, console: Console) -> None:
    table = Table(title=f"{done.section}: {done.cpu_seconds:.0f} CPU seconds", title_justify="left")
    for column in ("claim", "paper", "ours (spread)", "gate", ""):
        table.add_column(column)
    for claim in done.claims:
        if not claim.control or claim.passed is False:
            mark = {True: "[green]yes", False: "[red]no", None: "not judged"}[claim.passed]
            table.add_row(claim.claim, claim.paper, claim.shown, claim.gate, mark)
    console.print(table)


def summary(claims: list[Claim]) -> str:
    if not claims:
        return "no claim was judged: thresholds are for the paper's sizes"
    ours = [claim.passed for claim in claims if not claim.control]
    controls = [claim.passed for claim in claims if claim.control]
    not_judged = f"{ours.count(None)} not judged at --quick size; " if None in ours else ""
    return (
        f"{ours.count(True)} of {len(ours) - ours.count(None)} claims hold; {not_judged}"
        f"{controls.count(True)} of {len(controls) - controls.count(None)} negative controls fail "
        "as they should"
    )
