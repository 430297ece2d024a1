"""Values that JSON, YAML and flags give, held against annotations."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from activation_cache.common.errors import InputError

LONGEST = 80
"""Characters of a value that an error shows."""

LARGEST = 2**63
"""Whole numbers must be smaller: tensors and files count, and generators are seeded, in 64 bits."""

SIZES = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
"""What people write behind a number."""

WORDS = {
    int: "a whole number (of 64 bits at most)",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
}


def convert(kind: Any, value: Any, name: str, *, lenient: bool = False) -> Any:
    """The value as the annotation `kind` has it; `InputError` with the name where it cannot be.

    Knows dataclasses (from mappings), `tuple[X, ...]` and `Sequence[X]` (from lists),
    `dict[str, X]`, `Literal`, `X | None` and plain values. `lenient` is for settings, which people
    type: in YAML 1.1, `1` is an integer where a float is meant, `1e-3` is a string, `off` is false,
    and a list of one is easily forgotten. Texts are names then, without control characters.
    """
    origin, parts = get_origin(kind), get_args(kind)
    within = partial(convert, lenient=lenient)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        (other,) = (part for part in parts if part is not NoneType)
        return within(other, value, name)
    if is_dataclass(kind):
        return _from_mapping(kind, value, name, within)
    if origin is dict:
        content = _mapping(value, name)
        return {k: within(parts[1], x, f"{name}.{str(k)[:LONGEST]}") for k, x in content.items()}
    if origin in (tuple, Sequence):
        several = [value] if lenient and not isinstance(value, list | tuple) else value
        if not isinstance(several, list | tuple):
            raise _misfit(name, "a list", value)
        names = [name if lenient else f"{name}[{i}]" for i in range(len(several))]
        return tuple(map(within, repeat(parts[0]), several, names))
    if origin is Literal:
        value = "off" if lenient and value is False else value
        if not isinstance(value, str) or value not in parts:
            raise _misfit(name, f"one of {', '.join(map(str, parts))}", value)
        return value
    return value if kind is Any else _plain(kind, value, name, lenient=lenient)


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


def parse_json(data: bytes | str, where: str) -> dict[str, Any]:
    """A JSON object; `InputError` where it is none, or a key comes twice."""
    try:
        content = json.loads(data, object_pairs_hook=no_key_twice)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{where} must hold one JSON object, got {shown(content)}")
    return content


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A hook for `json`: `ValueError` for an object that has a key twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"it has {shown(twice)} twice")
    return content


def _misfit(name: str, expected: str, value: Any) -> InputError:
    return InputError(f"{name} must be {expected}, got {shown(value)}")


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _misfit(name, "a mapping", value)
    return value


def _from_mapping(kind: Any, value: Any, name: str, within: Callable[..., Any]) -> Any:
    content = _mapping(value, name)
    kinds, its_fields = get_type_hints(kind), {field.name: field for field in fields(kind)}
    unknown = set(content) - set(its_fields)
    if unknown:
        raise InputError(f"{name} has unknown keys: {listed(unknown)}")
    for key, field in its_fields.items():
        if key not in content and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{name} lacks {key}")
    return kind(**{key: within(kinds[key], x, f"{name}.{key}") for key, x in content.items()})


def _plain(kind: type, value: Any, name: str, *, lenient: bool) -> Any:
    words = WORDS.get(kind, f"a {kind.__name__}")
    if kind in (int, float):
        number = _number(kind, value, lenient=lenient)
        if number is not None:
            return number
    elif kind in (str, Path):
        if isinstance(value, str | Path) and not (lenient and not _is_name(str(value))):
            return kind(value)
        words += " without control characters" if lenient else ""
    elif isinstance(value, kind):
        return value
    raise _misfit(name, words, value)


def _number(kind: type, value: Any, *, lenient: bool) -> int | float | None:
    """As an int or a float, None where it is none that 64 bits hold."""
    allowed = int | float | str if lenient else (int if kind is int else int | float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        return None
    with suppress(ValueError, OverflowError):
        number = value if isinstance(value, int) else _float(value)
        if kind is float:
            return float(number) if math.isfinite(number) else None
        whole = int(number)
        return whole if whole == number and -LARGEST <= whole < LARGEST else None
    return None


def _float(value: float | str) -> float:
    """Of a text, too: 300k, 1.5M, 2B."""
    if isinstance(value, str) and value[-1:] in SIZES:
        return round(float(value[:-1]) * SIZES[value[-1]], 6)  # 1.1M is a whole number
    return float(value)


def _is_name(text: str) -> bool:
    """Whether a text can be a name, of a file too: some characters no file and no screen bears."""
    with suppress(UnicodeEncodeError):
        os.fsencode(text)
        return not any(c < " " or "\x7f" <= c <= "\x9f" for c in text)
    return False
