"""Completion of commands, flags and their values for bash and zsh."""

import argparse
from dataclasses import dataclass, field
from typing import Any, Literal

import shtab
from featureloom import COMMANDS, PAPERS

from sae.commands import (
    convert,
    evaluate,
    features,
    harvest,
    models,
    stability,
    sweep,
    toy_models,
    train,
    upload,
)
from sae.commands.flags import Groups, add_flags, groups_of, parse
from sae.commands.kinds import choices, without_none

BY_DATACLASS: dict[str, type] = {
    "evaluate": evaluate.EvaluateFlags,
    "features": features.FeaturesFlags,
    "harvest": harvest.HarvestFlags,
    "sweep": sweep.SweepSettings,
    "stability": stability.StabilityFlags,
    "convert": convert.ConvertFlags,
    "upload": upload.UploadFlags,
    "models": models.ModelsFlags,
    "toy-models": toy_models.ToyModelsFlags,
}


@dataclass(frozen=True, kw_only=True)
class CompletionFlags:
    """Print the completion of the commands and flags of `featureloom` for a shell.

    bash:  featureloom completion bash > ~/.local/share/bash-completion/completions/featureloom
    zsh:   featureloom completion zsh > "${fpath[1]}/_featureloom"
    """

    shell: Literal["bash", "zsh"] = field(metadata={"positional": True, "metavar": "SHELL"})
    """Shell."""


def main(arguments: list[str]) -> None:
    flags = parse(CompletionFlags, arguments)
    print(shtab.complete(_parser(), shell=flags.shell))


def _parser() -> argparse.ArgumentParser:
    """All commands with their flags, as shtab reads them."""
    parser = argparse.ArgumentParser(prog="featureloom")
    commands = parser.add_subparsers()
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about)
        if name == "papers":
            papers = command.add_subparsers()
            for paper, title in PAPERS.items():
                _describe(papers.add_parser(paper, help=title), _groups(paper))
        else:
            _describe(command, _groups(name))
    return parser


def _groups(name: str) -> Groups:
    if name == "train":
        return train.flag_groups()
    return groups_of({**BY_DATACLASS, "completion": CompletionFlags}[name])


def _describe(parser: argparse.ArgumentParser, groups: Groups) -> None:
    """Add the flags, with what may follow each: words to choose from, or else files."""
    flags = [flag for group in groups.values() for flag in group]
    for flag, action in zip(flags, add_flags(parser, flags), strict=True):
        action.help = flag.text.split(". ")[0].rstrip(".")
        kind: Any = without_none(flag.kind)
        if words := choices(kind):
            action.choices = [str(word) for word in words]
        elif kind not in (bool, int, float):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
