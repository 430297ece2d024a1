"""Things by name, of this project and of other installed packages that declare entry points."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from activation_cache.common.errors import InputError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Our own by name, then what entry points of a group declare, in the order of their names.

    Those are loaded when somebody first asks: other packages import this one. `InputError` for what
    is of another kind, or has the name of one of ours.
    """

    def __init__(
        self, own: Mapping[str, T], group: str, name_of: Callable[[Any], str | None], kind: str
    ) -> None:
        """`name_of` gives the name of what an entry point loads, or None where it is no `kind`."""
        self._own = own
        self._group = group
        self._name_of = name_of
        self._kind = kind

    @cached_property
    def _all(self) -> dict[str, T]:
        found = dict(self._own)
        for point in sorted(entry_points(group=self._group), key=lambda point: point.name):
            loaded = point.load()
            name = self._name_of(loaded)
            if name is None or name in found:
                fault = f"which is no {self._kind}" if name is None else f"and there is a {name}"
                raise InputError(
                    f"the entry point {point.name} of {self._group} is {point.value}, {fault}"
                )
            found[name] = loaded
        return found

    def __getitem__(self, name: str) -> T:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
