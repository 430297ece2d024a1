"""What other installed packages add, under the entry points that they declare."""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from activation_cache.common.errors import InputError


def plugins(group: str, fits: Callable[[Any], bool], kind: str) -> tuple[Any, ...]:
    """Everything that is declared under an entry point, in the order of names.

    `InputError` for what does not fit; `kind` says what it should be.
    """
    found: list[Any] = []
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        loaded = point.load()
        if not fits(loaded):
            raise InputError(
                f"the entry point {point.name} of {group} is {point.value}, which is no {kind}: "
                f"correct the package that declares it"
            )
        found.append(loaded)
    return tuple(found)
