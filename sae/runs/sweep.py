"""Train a grid of dictionaries on one stream, and lay their results side by side."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from activation_cache.common.errors import InputError, refuse_below
from activation_cache.common.files import write_file
from activation_cache.common.numbers import format_number
from sae.evaluation.metrics import METRICS
from sae.pages.pareto import SweepRow, mark_fronts, write_plot
from sae.runs.checkpoints import Checkpoints
from sae.runs.folder import claimed
from sae.runs.inputs import Inputs
from sae.runs.member import Member
from sae.runs.plan import State, prepare
from sae.runs.resume import is_evaluated, read_config, restore
from sae.runs.run import carry_out, features_asked_for_later
from sae.runs.settings import RunSettings
from sae.runs.settings.grid import Grid, member_settings, read_grid, seeds_grid
from sae.runs.settings.run_settings import changed_setting


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Train a grid of dictionaries on one stream of activations, and compare them."""

    grid: Path = field(metadata={"positional": True, "metavar": "GRID"})
    """YAML file: settings that members share, and under `grid` what varies."""
    out: Path = Path("runs/sweep")
    """New folder for the sweep."""
    resume: bool = False
    """Resume the sweep in --out; evaluated members are kept."""
    members_per_pass: int | None = None
    """Dictionaries in memory at a time (all). Every pass reads the stream."""
    device: str | None = None
    """Where to compute (as the file says): auto, cpu, cuda or cuda:N."""
    wandb: Literal["off", "offline", "online"] | None = None
    """Weights & Biases, where a sweep is a group (as the file says)."""

    def __post_init__(self) -> None:
        refuse_below(1, members_per_pass=self.members_per_pass)


def sweep(settings: SweepSettings, console: Console | None = None) -> list[SweepRow]:
    """Train what is not trained yet, and write `results.json` and `pareto.png` beside the members.

    Every member has a run folder under `members/`, as if it had been trained alone with its seed,
    to the last bit on a CPU. What cannot be trained is refused (`InputError`) before anything is.
    """
    grid = read_grid(settings.grid)
    flags = {name: getattr(settings, name) for name in ("device", "wandb")}
    given = {name: value for name, value in flags.items() if value is not None}
    return train_grid(
        grid,
        member_settings(grid, given, where=f"the grid file {settings.grid}"),
        settings.out,
        console,
        resume=settings.resume,
        members_per_pass=settings.members_per_pass,
    )


def train_seeds(
    settings: RunSettings,
    n_seeds: int,
    console: Console | None = None,
    *,
    twins: bool = False,
    resume: bool = False,
) -> list[SweepRow]:
    """The same for dictionaries that differ in the seed alone, in the folder of these settings, and
    with `twins` for two whose decoder or encoder stays random."""
    grid = seeds_grid(settings, n_seeds, twins=twins)
    if os.path.exists(settings.out / "config.json"):  # noqa: PTH110 - whatever name it is
        raise InputError(
            f"{settings.out} is the folder of a run of one seed: name another one with --out"
        )
    by_name = member_settings(grid, {}, where="")
    return train_grid(grid, by_name, settings.out, console, resume=resume)


def train_grid(
    grid: Grid,
    by_name: Mapping[str, RunSettings],
    out: Path,
    console: Console | None = None,
    *,
    resume: bool = False,
    members_per_pass: int | None = None,
) -> list[SweepRow]:
    """The same for the members of a grid, whose settings are given by name in its order."""
    console = console or Console(quiet=True)
    first = next(iter(by_name.values()))
    with claimed(out, resume=resume, stop_signal=first.stop_signal):
        inputs = Inputs.open(first, console)
        members = [_member(name, its, inputs, out) for name, its in by_name.items()]
        for member in members:  # dictionaries of a pass are built when it begins
            inputs.refuse_unfit(member.settings)
        _ = inputs.held_out  # reads the text
        _train(members, inputs, out, members_per_pass, console)
        return _write_results(out, grid, members)


def _train(
    members: Sequence[Member],
    inputs: Inputs,
    out: Path,
    members_per_pass: int | None,
    console: Console,
) -> None:
    """Train the members that are not done; first an interrupted pass, from where it was."""
    waiting = [member for member in members if not _is_done(member)]
    if len(waiting) < len(members):
        console.print(f"{len(members) - len(waiting)} of {len(members)} members are trained")
    for member in members:
        if member not in waiting:
            features_asked_for_later(member, inputs, console)
    checkpoints = Checkpoints(out, inputs.settings, console)
    state: State = checkpoints.newest() or {"members": {}}
    begun = [member for member in waiting if _is_resumed(member, state)]
    if not begun:  # of a pass that is done, or whose members have changed: later by their names
        checkpoints.remove()
    rest = [member for member in waiting if member not in begun]
    per_pass = members_per_pass or max(1, len(rest))
    passes = [rest[start : start + per_pass] for start in range(0, len(rest), per_pass)]
    for number, its_members in enumerate([begun, *passes] if begun else passes):
        if begun and number == 0:
            plan = prepare(its_members, inputs, sites=state["hook_names"])
            restore(plan, state)
        else:
            plan = prepare(its_members, inputs)
            for member in its_members:
                shutil.rmtree(member.folder, ignore_errors=True)  # of a pass that was interrupted
                member.folder.mkdir(parents=True)
        for result in carry_out(plan, checkpoints, console):
            console.print(f"evaluated {result.folder.name}", markup=False)
        checkpoints.remove()  # the members are done, and the next pass has others


def _is_resumed(member: Member, state: State) -> bool:
    """Whether the checkpoint has this very member, whose settings have not changed since."""
    its_state = state["members"].get(member.name)
    if its_state is None or its_state["settings"]["n_tokens"] != member.settings.n_tokens:
        return False
    return changed_setting(its_state["settings"], member.settings) is None


def _member(name: str, settings: RunSettings, inputs: Inputs, out: Path) -> Member:
    if inputs.cache is not None:
        settings = settings.of_cache(inputs.cache)
    sites = settings.hook_names or (inputs.default_site,)
    if len(sites) > 1:
        raise InputError(
            f"the member {name} has {len(sites)} sites: vary hook_name under `grid`, or name one"
        )
    folder = out / "members" / name
    settings = settings.but(model=inputs.settings.model, hook_name=sites, out=folder)
    return Member(name, settings, folder, group=out.name)


def _is_done(member: Member) -> bool:
    """Whether it was trained and evaluated; `InputError` where that was with other settings."""
    if not is_evaluated(member):
        return False
    then = read_config(member.folder)["settings"]
    changed = changed_setting(then, member.settings)
    if changed is None and then["n_tokens"] != member.settings.n_tokens:
        changed = "n_tokens", then["n_tokens"]
    if changed is not None:
        name, before = changed
        raise InputError(
            f"the member {member.folder} was trained with {name} {before!r}, and the grid "
            f"has {member.settings.to_dict().get(name)!r}: remove its folder, or sweep into "
            f"another --out"
        )
    return True


def _metrics(member: Member) -> dict[str, Any]:
    """What its evaluation found."""
    return json.loads((member.folder / "eval.json").read_text())["metrics"]


def _write_results(out: Path, grid: Grid, members: Sequence[Member]) -> list[SweepRow]:
    rows = mark_fronts(
        SweepRow(
            name=member.name,
            hook_name=member.hook_name,
            architecture=member.settings.dictionary.architecture,
            point=point,
            metrics=_metrics(member),
        )
        for member, point in zip(members, grid.points, strict=True)
    )
    content = [row.to_dict() for row in rows]
    write_file(out / "results.json", json.dumps(content, indent=2) + "\n")
    write_plot(rows, out)
    return rows


def results_table(rows: Iterable[SweepRow]) -> Table:
    """The members as a table: Pareto-optimal ones first, by L0."""
    table = Table(title_justify="left", caption_justify="left")
    table.caption = (
        "Pareto front of L0 and FVU, or delta CE: no other member of the site is better in both; "
        "up to 1% more L0 counts as the same"
    )
    table.add_column("member", overflow="fold", min_width=20)
    shown = ("l0", "fvu", "delta_ce")
    for name in shown:
        table.add_column(METRICS[name].title, justify="right")
    table.add_column("dead", justify="right")
    table.add_column("Pareto front")
    for row in rows:
        metrics = row.metrics
        table.add_row(
            row.name,
            *(format_number(metrics.get(name)) for name in shown),
            f"{metrics['dead_fraction']:.1%}",
            ", ".join(row.fronts),
        )
    return table
