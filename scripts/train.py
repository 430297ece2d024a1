"""Train a sparse dictionary on a language model's activations, evaluate it, and write a report.

Without any flag this trains a TopK dictionary on the embedded model. See --help for the flags.
"""

import sys
from dataclasses import replace

from cli import config_argument, parse, run_script
from rich.console import Console

from sae.runs import RunSettings, run
from sae.runs.settings import settings_from_file
from sae.runs.summary import summary_table


def main() -> None:
    path, arguments = config_argument(sys.argv[1:])
    default = settings_from_file(path) if path else RunSettings()
    if any(argument.split("=")[0] == "--hook-name" for argument in arguments):
        default = replace(default, hook_name=())  # flags replace what the file says
    settings = parse(RunSettings, arguments, default)
    console = Console()
    for result in run(settings, console):
        model = result.sae.metadata["model_name"]
        title = f"{settings.architecture} dictionary on {result.hook_name} of {model}"
        console.print(summary_table(result.report, title))
        for name, file in (("dictionary", "sae"), ("report", "report.html")):
            console.print(f"{name:11} {result.folder / file}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_script(main)
