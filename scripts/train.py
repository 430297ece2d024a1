"""Train a sparse dictionary on a language model's activations, evaluate it, and write a report.

Without any flag this trains a TopK dictionary on the embedded model. See --help for the flags.
"""

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

from cli import config_argument, parse, run_script
from rich.console import Console

from sae.runs import RunSettings, run
from sae.runs.settings.run_settings import settings_from_file
from sae.runs.sinks.summary import summary_table


@dataclass(frozen=True, kw_only=True)
class Flags(RunSettings):
    __doc__ = RunSettings.__doc__

    resume: bool = False
    """Go on with the run in --out, with the settings that it has, or begin it."""


def main() -> None:
    path, arguments = config_argument(sys.argv[1:])
    default = settings_from_file(path) if path else _settings_of_the_run(arguments)
    if any(argument.split("=")[0] == "--hook-name" for argument in arguments):
        default = replace(default, hook_name=())  # flags replace what the file says
    flags = parse(Flags, arguments, Flags(**vars(default)))
    settings = RunSettings(**{field.name: getattr(flags, field.name) for field in fields(default)})
    console = Console()
    for result in run(settings, console, resume=flags.resume):
        model = result.sae.metadata["model_name"]
        title = f"{settings.architecture} dictionary on {result.hook_name} of {model}"
        console.print(summary_table(result.report, title))
        for name, file in (("dictionary", "sae"), ("report", "report.html")):
            console.print(f"{name:11} {result.folder / file}", soft_wrap=True, markup=False)


def _settings_of_the_run(arguments: list[str]) -> RunSettings:
    """With --resume, those that the run in --out was begun with, where they are there."""
    default = RunSettings()
    if "--resume" not in arguments:
        return default
    out = default.out
    for i, argument in enumerate(arguments):
        if argument.startswith("--out="):
            out = Path(argument.removeprefix("--out="))
        elif argument == "--out" and i + 1 < len(arguments):
            out = Path(arguments[i + 1])
    config = out / "config.json"
    return replace(settings_from_file(config), out=out) if config.is_file() else default


if __name__ == "__main__":
    run_script(main)
