"""What every script has in common: flags from a dataclass, one line for bad input, exit codes."""

import argparse
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from activation_cache.common.errors import InputError
from activation_cache.common.memory import keep_freed_memory
from activation_cache.common.schema import convert
from sae.runs.settings.fields import Setting, settings_of
from sae.runs.signals import interrupted_by_sigterm

Flags = TypeVar("Flags")

LONGEST_WORD = 200
"""Characters of a name or a value that an error shows."""

WIDEST_HELP = 110
"""Columns."""


def parse(cls: type[Flags], arguments: list[str]) -> Flags:
    """An instance of a dataclass of flags. What is wrong is reported in one line, with exit code 2.

    A field's `metadata` may have `positional=True`, `aliases` and a `metavar`.
    """
    try:
        return cls(**given_flags({"flags": settings_of(cls)}, arguments, str(cls.__doc__)))
    except InputError as error:
        fail(str(error))


def given_flags(
    groups: Mapping[str, Iterable[Setting]], arguments: list[str], about: str
) -> dict[str, Any]:
    """The flags that are given, by their fields, each as its annotation has it."""
    flags = [flag for group in groups.values() for flag in group]
    parser = _Parser(allow_abbrev=False, add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true")
    for flag in flags:
        _add(parser, flag)
    given = vars(parser.parse_args(arguments))
    if given.pop("help", False):
        print(_help(groups, about))
        sys.exit(0)
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


def run_script(main: Callable[[], None]) -> None:
    """Run a script: 0 on success, 2 with one line on bad input, 130 on Ctrl-C, 143 on SIGTERM."""
    keep_freed_memory()
    try:
        with interrupted_by_sigterm():
            main()
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt as interrupt:
        message = f"interrupted {interrupt}".strip()
        print(message, file=sys.stderr)
        sys.exit(128 + getattr(interrupt, "signum", signal.SIGINT))


def refuse_unwritable(path: Path) -> None:
    """End with one line, before any work is done, where no file can be written."""
    try:
        is_folder, has_folder = path.is_dir(), path.absolute().parent.is_dir()
        if has_folder and not is_folder and os.access(path.parent, os.W_OK):
            path.exists()  # raises where the name is too long
            return
        reason = "it is a folder" if is_folder else f"{path.parent} is no folder to write to"
    except OSError as error:
        reason = error.strerror or str(error)
    fail(f"cannot write to {path}: {reason}; name a file in a folder that is there")


def fail(message: str) -> NoReturn:
    """End with one line, whatever a file or a flag has put into it, and with exit code 2."""
    words = (w if len(w) <= LONGEST_WORD else f"{w[:LONGEST_WORD]}..." for w in message.split())
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(words))
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message}; --help shows all flags")


def _add(parser: argparse.ArgumentParser, flag: Setting) -> None:
    if flag.is_positional:
        parser.add_argument(flag.field, nargs="?", metavar=flag.metavar)  # --help goes without
        return
    names = (flag.flag, *flag.aliases)
    if _option(flag.kind) is bool:
        parser.add_argument(*names, dest=flag.field, action=argparse.BooleanOptionalAction)
    elif get_origin(_option(flag.kind)) is tuple:
        parser.add_argument(*names, dest=flag.field, action="append", metavar=flag.metavar)
    else:
        parser.add_argument(*names, dest=flag.field, metavar=flag.metavar)


def _option(kind: Any) -> Any:
    """The kind without None."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    return kind


def _help(groups: Mapping[str, Iterable[Setting]], about: str) -> str:
    """Every flag with the first sentence of what it does."""
    width = min(WIDEST_HELP, shutil.get_terminal_size((WIDEST_HELP, 24)).columns)
    lines = [about.split("\n\n")[0].strip()]
    for group, flags in groups.items():
        lines += ["", f"{group}:"]
        for flag in flags:
            lines += _lines(flag, width)
    return "\n".join(lines)


def _lines(flag: Setting, width: int) -> list[str]:
    values = _values(flag)
    name = flag.metavar if flag.is_positional else f"{flag.flag} {values}".strip()
    if flag.default is True:
        name = name.replace("--", "--no-", 1)
    text = flag.text.split(". ")[0].rstrip(".")
    if flag.default is True:
        text = f"Turn off: {text[:1].lower()}{text[1:]}"
    elif flag.default not in (None, MISSING, (), [], False, "", 0):
        text += f" ({flag.default})"
    wrapped = textwrap.wrap(text, width=width - 32) or [""]
    first = f"  {name:<28}  {wrapped[0]}" if len(name) <= 28 else f"  {name}"
    rest = wrapped if len(name) > 28 else wrapped[1:]
    return [first, *(f"{'':32}{line}" for line in rest)]


def _values(flag: Setting) -> str:
    kind = _option(flag.kind)
    if kind is bool:
        return ""
    if get_origin(kind) is tuple:
        return "..."
    if get_origin(kind) is Literal:
        choices = "|".join(map(str, get_args(kind)))
        return choices if len(choices) <= 20 else "NAME"
    return {int: "N", float: "X"}.get(kind, "PATH" if kind is Path else "TEXT")
