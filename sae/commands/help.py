"""`--help`: the flags of a command in groups, a plain line each, with unit and default."""

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, get_args, get_origin

from sae.commands.kinds import choices, without_none
from sae.runs.settings.fields import Setting

WIDEST = 110
"""Columns."""
NAME = 34
"""Columns of a flag with its value."""
UNITS = ("tokens", "minutes")
"""Last words of names that say what a number counts."""


def help_text(groups: Mapping[str, Iterable[Setting]], about: str) -> str:
    """Every flag with the first sentence of what it does, below the first paragraph of `about`;
    its other paragraphs are at the end."""
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    first, *others = (textwrap.dedent(part).strip() for part in about.strip().split("\n\n"))
    lines = [first]
    for group, flags in groups.items():
        lines += ["", f"{group}:"]
        for flag in flags:
            lines += _lines(flag, width)
    return "\n\n".join(["\n".join(lines), "Defaults are in brackets.", *others])


def _lines(flag: Setting, width: int) -> list[str]:
    name = f"  {flag.metavar if flag.is_positional else f'{flag.flag} {_value(flag)}'.strip()}"
    if flag.default is True:
        name = name.replace("--", "--no-", 1)
    wrapped = textwrap.wrap(_text(flag), width=width - NAME)
    first = [name] if len(name) >= NAME - 1 else [f"{name:<{NAME}}{wrapped.pop(0)}"]
    return [*first, *(f"{'':{NAME}}{line}" for line in wrapped)]


def _text(flag: Setting) -> str:
    text = flag.text.split(". ")[0].rstrip(".")
    if flag.default is True:
        return f"Do not {text[:1].lower()}{text[1:]}"
    is_shown = _value(flag) != "NAME" and not flag.is_positional
    if (words := choices(flag.kind)) and not is_shown:
        text += f": {', '.join(map(str, words))}"
    if flag.default is False or flag.default in (None, MISSING, (), [], ""):
        return text
    is_count = isinstance(flag.default, int) and flag.default >= 10_000
    return f"{text} ({flag.default:,})" if is_count else f"{text} ({flag.default})"


def _value(flag: Setting) -> str:
    """What stands for the value: the unit of a number, the words that there are."""
    kind: Any = without_none(flag.kind)
    unit = flag.name.split("_")[-1]
    if kind in (int, float):
        return unit.upper() if unit in UNITS else "N" if kind is int else "X"
    if get_origin(kind) is tuple:
        return "NAME" if str in get_args(kind) else "N"
    if words := choices(kind):
        one_of = "|".join(map(str, words))
        return one_of if len(one_of) <= 20 else "NAME"
    return {bool: "", Path: "PATH"}.get(kind, "TEXT")
