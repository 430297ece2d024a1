"""What the annotation of a flag says of its values."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


def without_none(kind: Any) -> Any:
    """The kind of an optional one."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    return kind


def choices(kind: Any) -> tuple[Any, ...]:
    """The words that can be chosen from; none where it is not a list of words."""
    kind = without_none(kind)
    return get_args(kind) if get_origin(kind) is Literal else ()
