"""Train a sparse dictionary on a language model's activations, evaluate it, and write a report.

Without any flag this trains a BatchTopK dictionary on the embedded model, which needs no network.
Numbers may be written as 300k, 1.5M or 1e6. docs/settings.md says more of every flag.

Sites are blocks.LAYER. followed by hook_resid_pre, hook_resid_mid, hook_resid_post, hook_attn_out,
hook_mlp_out, mlp.hook_post, attn.hook_z, attn.hook_q, attn.hook_k, attn.hook_v, ln1.hook_normalized
or ln2.hook_normalized, such as blocks.2.hook_resid_pre; or hook_embed; or any module of the model,
as module:transformer.h.1.mlp.act. `featureloom models MODEL` lists what a model has.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError, refuse_below
from sae.commands.flags import given_flags
from sae.runs.folder import numbered
from sae.runs.settings import RunSettings, settings_from, settings_from_file
from sae.runs.settings.fields import Setting, settings_of
from sae.runs.settings.groups import setting_groups
from sae.runs.settings.presets import Preset, PresetName
from sae.runs.settings.run_settings import flat_settings


@dataclass(frozen=True)
class Command:
    """What is to be done, beside the settings of the run."""

    resume: bool = False
    """Resume the run in --out with its own settings, or begin it. Without --out, the newest of
    runs/run-N."""
    dry_run: bool = False
    """Print the steps, memory, disk and time of the run, and write nothing."""
    preset: PresetName | None = None
    """Settings by name, for a known model and site: docs/recipes.md. --config and flags override
    them."""
    config: Path | None = None
    """Settings file (YAML, JSON or a run's config.json); flags override it."""
    seeds: int = 1
    """Dictionaries to train on one stream, which differ in the seed. They are a sweep: --seed and
    the next ones, with a run folder each in --out/members."""
    twins: bool = False
    """Train beside them twins whose decoder, or encoder, stays random. `featureloom stability`
    holds the seeds against them."""

    def __post_init__(self) -> None:
        refuse_below(1, seeds=self.seeds)

    @property
    def is_of_seeds(self) -> bool:
        return self.seeds > 1 or self.twins


def flag_groups() -> dict[str, Iterable[Setting]]:
    return {"command": settings_of(Command), **setting_groups()}


def main(arguments: list[str]) -> None:
    given = given_flags(flag_groups(), arguments, str(__doc__))
    names = [setting.field for setting in settings_of(Command)]
    command = Command(**{name: given.pop(name) for name in names if name in given})
    settings = _settings(command, given)
    if command.is_of_seeds:
        train_over_seeds(settings, command)
    else:
        train(settings, command)


def train(settings: RunSettings, command: Command) -> None:
    from rich.console import Console  # here, as what follows: --help needs none of it

    from sae.runs.dry_run import dry_run
    from sae.runs.run import run
    from sae.runs.sinks.summary import print_advice, summary_table

    console = Console()
    if command.dry_run:
        console.print(dry_run(settings, console))
        return
    if os.path.isdir(settings.out / "members"):  # noqa: PTH112 - whatever name it is
        raise InputError(
            f"{settings.out} is the folder of a sweep: resume it with --seeds and --twins as it "
            f"was begun, or with `featureloom sweep`, or name another one with --out"
        )
    for result in run(settings, console, resume=command.resume):
        known = result.sae.provenance
        architecture = result.sae.cfg.architecture
        source = known.model_name or known.activations_path
        title = f"{architecture} dictionary on {result.hook_name} of {source}"
        counts_all = bool(known.all_positions)
        console.print(summary_table(result.report, title, all_positions=counts_all))
        print_advice(result.report, console)
        written = {"dictionary": "sae", "report": "report.html", "features": "features/index.html"}
        for name, file in written.items():
            if (result.folder / file).exists():
                console.print(f"{name:11} {result.folder / file}", soft_wrap=True, markup=False)


def train_over_seeds(settings: RunSettings, command: Command) -> None:
    from rich.console import Console

    from sae.commands.sweep import print_results
    from sae.runs.sweep import train_seeds

    if command.dry_run:
        raise InputError("--dry-run is of one dictionary: leave out --seeds and --twins")
    console = Console()
    rows = train_seeds(settings, command.seeds, console, twins=command.twins, resume=command.resume)
    print_results(rows, settings.out, console)


def _settings(command: Command, given: dict[str, Any]) -> RunSettings:
    """The flags that are given, and below them a file of settings or a preset, or with --resume the
    run's."""
    in_file = dict(flat_settings(command.config)) if command.config else {}
    if command.preset is not None:
        in_file = {**Preset.named(command.preset).settings, **in_file}
    if "out" not in {*given, *in_file}:
        given["out"] = numbered(resume=command.resume)
    of_the_run = _config_of(given.get("out", RunSettings().out), command)
    if in_file:
        where = f"config file {command.config}" if command.config else f"preset {command.preset}"
        start = settings_from(in_file, where=f"the {where}")
    elif command.resume and of_the_run.is_file():
        start = settings_from_file(of_the_run)
    else:
        start = RunSettings()
    return start.but(**given)


def _config_of(out: Path, command: Command) -> Path:
    """The settings of a run; of several seeds, those of the first one."""
    if not command.is_of_seeds:
        return out / "config.json"
    seeds = {
        int(number): path
        for path in out.glob("members/seed*/config.json")
        if (number := path.parent.name.removeprefix("seed")).isdecimal()
    }
    return seeds[min(seeds)] if seeds else out / "config.json"
