"""Whether JSON that somebody else wrote is what an annotation says."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from activation_cache.errors import InputError

LARGEST = 2**63
"""Whole numbers must be smaller: tensors and files count in 64 bits."""

WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}


def check_kind(kind: Any, value: Any, name: str) -> None:
    """Raise `InputError` where a value is not of an annotated kind.

    Knows what manifests are made of: dataclasses, `tuple[X, ...]`, `dict[str, X]`, `Literal`,
    `X | None`, and plain values. `name` is what the message calls the value.
    """
    problem = _misfit(kind, value, name)
    if problem is not None:
        raise InputError(problem)


def _misfit(kind: Any, value: Any, name: str) -> str | None:
    """What is wrong with the value, or None."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (other,) = (part for part in parts if part is not NoneType)
        return None if value is None else _misfit(other, value, name)
    if is_dataclass(kind):
        return _misfit_of_fields(kind, value, name)
    if origin is dict:
        return _misfit_of_items(parts[1], value, name)
    if origin is tuple:
        if not isinstance(value, list):
            return f"{name} is {shown(value)}, not a list"
        found = (_misfit(parts[0], item, f"{name}[{i}]") for i, item in enumerate(value))
        return next(filter(None, found), None)
    if origin is Literal:
        fits = isinstance(value, str) and value in parts
        return None if fits else f"{name} is {shown(value)}, not one of {', '.join(parts)}"
    fits = kind is Any or _is_plain(kind, value)
    return None if fits else f"{name} is {shown(value)}, not {WORDS[kind]}"


def shown(value: Any) -> str:
    """A value of a file for an error message, however long it is."""
    text = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _misfit_of_fields(kind: Any, value: Any, name: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"{name} is {shown(value)}, not a mapping"
    kinds, its_fields = get_type_hints(kind), {field.name: field for field in fields(kind)}
    unknown = sorted(set(value) - set(its_fields))
    if unknown:
        return f"{name} has the unknown {', '.join(unknown)[:80]}"
    for key, field in its_fields.items():
        if key not in value and field.default is MISSING and field.default_factory is MISSING:
            return f"{name} lacks {key}"
    found = (_misfit(kinds[key], item, f"{name}.{key}") for key, item in value.items())
    return next(filter(None, found), None)


def _misfit_of_items(kind: Any, value: Any, name: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"{name} is {shown(value)}, not a mapping"
    found = (_misfit(kind, item, f"{name}.{str(key)[:80]}") for key, item in value.items())
    return next(filter(None, found), None)


def _is_plain(kind: type, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int):
        return kind in (int, float) and abs(value) < LARGEST
    return isinstance(value, kind) and (kind is not float or math.isfinite(value))
