"""Values as YAML and JSON have them, as the settings want them.

In YAML 1.1, `1` is an integer where a float is meant, `1e-3` is a string, and `off` is false.
"""

import math
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from sae.errors import InputError

LONGEST = 80
"""Characters of a value that an error shows."""


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


def _converted(kind: Any, value: Any) -> Any:
    """The value as that kind, or None."""
    if get_origin(kind) is Literal:
        value = "off" if value is False else value
        return value if value in get_args(kind) else None
    if get_origin(kind) is tuple:
        several = [value] if isinstance(value, str) else value
        is_texts = isinstance(several, list | tuple) and all(isinstance(v, str) for v in several)
        return tuple(several) if is_texts else None
    if kind in (int, float):
        return _number(kind, value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    return value if isinstance(value, kind) else None


def _number(kind: type, value: Any) -> int | float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, kind):
        return value if kind is int or math.isfinite(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if kind is int:
        return int(number) if number.is_integer() else None
    return number if math.isfinite(number) else None


def _said(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return "a name or a list of names"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")
