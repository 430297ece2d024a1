"""Train a sparse dictionary on a language model's activations, evaluate it, and write a report.

Without any flag this trains a TopK dictionary on the embedded model. docs/settings.md says more of
every flag.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import given_flags, run_script

from sae.runs.settings import RunSettings, settings_from_file
from sae.runs.settings.fields import settings_of
from sae.runs.settings.groups import setting_groups


@dataclass(frozen=True)
class Command:
    """What is to be done, beside the settings of the run."""

    resume: bool = False
    """Resume the run in --out, with the settings that it has, or begin it."""
    dry_run: bool = False
    """Print what the run would take (steps, memory, disk, time), and write nothing."""
    config: Path | None = None
    """JSON or YAML file of settings, or the config.json of a run; flags override it."""


def main() -> None:
    groups = {"command": settings_of(Command), **setting_groups()}
    given = given_flags(groups, sys.argv[1:], str(__doc__))
    names = [setting.field for setting in settings_of(Command)]
    command = Command(**{name: given.pop(name) for name in names if name in given})
    train(_start(command, given).but(**given), command)


def train(settings: RunSettings, command: Command) -> None:
    from rich.console import Console  # here, as what follows: --help needs none of it

    from sae.runs.dry_run import dry_run
    from sae.runs.run import run
    from sae.runs.sinks.summary import summary_table

    console = Console()
    if command.dry_run:
        console.print(dry_run(settings, console))
        return
    for result in run(settings, console, resume=command.resume):
        known = result.sae.provenance
        architecture = result.sae.cfg.architecture
        title = f"{architecture} dictionary on {result.hook_name} of {known.model_name}"
        counts_all = bool(known.all_positions)
        console.print(summary_table(result.report, title, all_positions=counts_all))
        for name, file in (("dictionary", "sae"), ("report", "report.html")):
            console.print(f"{name:11} {result.folder / file}", soft_wrap=True, markup=False)


def _start(command: Command, given: dict[str, Any]) -> RunSettings:
    """What flags change: a file of settings, or with --resume those of the run in --out."""
    if command.config is not None:
        return settings_from_file(command.config)
    of_the_run = given.get("out", RunSettings().out) / "config.json"
    if command.resume and of_the_run.is_file():
        return settings_from_file(of_the_run)
    return RunSettings()


if __name__ == "__main__":
    run_script(main)
