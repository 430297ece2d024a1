"""Flags from dataclasses: each field is one, and the text below it is its help."""

import argparse
import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from typing import Any, NoReturn, TypeVar, get_origin

from activation_cache.common.errors import InputError
from activation_cache.common.schema import convert
from sae.commands.exits import fail
from sae.commands.help import help_text
from sae.commands.kinds import without_none
from sae.runs.settings.fields import Setting, settings_of

Flags = TypeVar("Flags")
Groups = Mapping[str, Iterable[Setting]]

CALLED_ELSEWHERE = {
    "--activation-fn": "--architecture",
    "--batch-size": "--batch-tokens",
    "--checkpoint-path": "--out",
    "--dataset-path": "--dataset",
    "--dict-size": "--d-sae",
    "--expansion-factor": "--d-sae",
    "--hook-layer": "--hook-name",
    "--hook-point": "--hook-name",
    "--l0-coefficient": "--l0-coeff",
    "--l1-coefficient": "--l1-coeff",
    "--layer": "--hook-name",
    "--layers": "--hook-name",
    "--learning-rate": "--lr",
    "--log-to-wandb": "--wandb",
    "--model-name": "--model",
    "--n-batches-in-buffer": "--buffer-tokens",
    "--output-path": "--out",
    "--steps": "--n-tokens",
    "--total-training-tokens": "--n-tokens",
    "--train-batch-size-tokens": "--batch-tokens",
    "--training-tokens": "--n-tokens",
}
"""Flags and settings of other projects, for `did you mean`."""


def parse(cls: type[Flags], arguments: list[str]) -> Flags:
    """An instance of a dataclass of flags. What is wrong is reported in one line, with exit code 2.

    A field's `metadata` may have `positional=True`, `aliases` and a `metavar`.
    """
    return parse_named(cls, arguments)[0]


def parse_named(cls: type[Flags], arguments: list[str]) -> tuple[Flags, set[str]]:
    """The same, and the fields that were given."""
    try:
        given = given_flags(groups_of(cls), arguments, str(cls.__doc__))
        return cls(**given), set(given)
    except InputError as error:
        fail(str(error))


def groups_of(cls: type) -> Groups:
    settings = settings_of(cls)
    groups = {
        "arguments": [setting for setting in settings if setting.is_positional],
        "flags": [setting for setting in settings if not setting.is_positional],
    }
    return {name: its_settings for name, its_settings in groups.items() if its_settings}


def given_flags(groups: Groups, arguments: list[str], about: str) -> dict[str, Any]:
    """The flags that are given, by their fields, each as its annotation has it."""
    flags = [flag for group in groups.values() for flag in group]
    parser = _Parser(allow_abbrev=False, add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true")
    add_flags(parser, flags)
    known, unknown = parser.parse_known_args(arguments)
    given = vars(known)
    if given.pop("help", False):
        print(help_text(groups, about), flush=True)
        sys.exit(0)
    if unknown:
        fail(f"unknown {unknown[0].split('=')[0]}{_meant(unknown[0], flags)}")
    missing = [f.metavar for f in flags if f.default is MISSING and f.field not in given]
    if missing:
        fail(f"{', '.join(missing)} must be given; --help shows all flags")
    try:
        return {
            flag.field: convert(flag.kind, given[flag.field], flag.flag, lenient=True)
            for flag in flags
            if flag.field in given
        }
    except InputError as error:
        fail(f"{error}; --help shows all flags")


def add_flags(parser: argparse.ArgumentParser, flags: Iterable[Setting]) -> list[argparse.Action]:
    """An argument of the parser for each flag, in order."""
    return [_added(parser, flag) for flag in flags]


def _added(parser: argparse.ArgumentParser, flag: Setting) -> argparse.Action:
    kind = without_none(flag.kind)
    if flag.is_positional:  # --help goes without
        return parser.add_argument(flag.field, nargs="?", metavar=flag.metavar)
    kwargs: dict[str, Any] = {"dest": flag.field, "metavar": flag.metavar}
    if kind is bool:
        kwargs = {"dest": flag.field, "action": argparse.BooleanOptionalAction}
    elif get_origin(kind) in (tuple, Sequence):
        kwargs["action"] = "append"
    return parser.add_argument(flag.flag, *flag.aliases, **kwargs)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message}; --help shows all flags")


def _meant(unknown: str, flags: list[Setting]) -> str:
    """The flag that is like an unknown one, or that is called so by other projects."""
    name = unknown.split("=")[0].replace("_", "-").lower()
    names = [flag.flag for flag in flags]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    elsewhere = CALLED_ELSEWHERE.get(name)
    meant = elsewhere if elsewhere in names else (near[0] if near else None)
    return f"{f': did you mean {meant}?' if meant else ';'} --help shows all flags"
