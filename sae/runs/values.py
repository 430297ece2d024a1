"""Values as YAML and JSON have them, as the settings want them.

In YAML 1.1, `1` is an integer where a float is meant, `1e-3` is a string, and `off` is false.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from sae.errors import InputError

LONGEST = 80
"""Characters of a value that an error shows."""

LARGEST = 2**63
"""Whole numbers are smaller: tensors count, and generators are seeded, in 64 bits."""


def as_setting(name: str, hint: Any, value: Any) -> Any:
    """`value` as the annotation `hint` has it; `InputError` with the name where it cannot be."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in options:
        return None
    (kind,) = (option for option in options if option is not NoneType)
    converted = _converted(kind, value)
    if converted is None:
        raise InputError(f"{name} must be {_said(kind)}, got {shown(value)}")
    return converted


def shown(value: Any) -> str:
    """A value for an error message, however long it is."""
    is_plain = isinstance(value, str | int | float | bool | NoneType)
    text = repr(value) if is_plain else f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def listed(names: Iterable[Any]) -> str:
    """Names that a file has, for an error message, however many and whatever they are."""
    plain = (n if isinstance(n, str) and n.isprintable() and n else repr(n) for n in names)
    text = ", ".join(sorted(plain))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _converted(kind: Any, value: Any) -> Any:
    """The value as that kind, or None."""
    if get_origin(kind) is Literal:
        value = "off" if value is False else value
        return value if value in get_args(kind) else None
    if get_origin(kind) is tuple:
        several = [value] if isinstance(value, str) else value
        is_texts = isinstance(several, list | tuple) and all(map(_is_text, several))
        return tuple(several) if is_texts else None
    if kind in (int, float):
        return _number(kind, value)
    if kind in (str, Path):
        return kind(value) if _is_text(value) else None
    return value if isinstance(value, kind) else None


def _is_text(value: Any) -> bool:
    """Whether a value can be a name, of a file too: some characters no file and no screen bears."""
    if not isinstance(value, str) or any(map(_is_control, value)):
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"


def _number(kind: type, value: Any) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = value if isinstance(value, int) else float(value)
        if kind is float:
            return float(number) if math.isfinite(number) else None
        whole = int(number)
    except (ValueError, OverflowError):
        return None
    return whole if whole == number and -LARGEST <= whole < LARGEST else None


def _said(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return "a name or a list of names, without control characters"
    said = {int: "a whole number (of 64 bits at most)", float: "a number", bool: "true or false"}
    return said.get(kind, "a text without control characters")
