"""Settings as they are declared: fields of frozen classes, with the text below each.

Flags, settings files, config.json and the table in the documentation are made from this. A field
may say in its `metadata` what its setting is called (`setting="data_seed"`), or that it is none
(`setting=None`); a script's own flags may be `positional`, and have `aliases` and a `metavar`.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Setting:
    """One setting: what a flag, a line of a settings file and a row of the docs' table say."""

    name: str
    field: str
    """Its name in the class that declares it."""
    kind: Any
    default: Any
    """`MISSING` where there is none."""
    text: str
    """What it does."""
    is_positional: bool = False
    aliases: tuple[str, ...] = ()
    called: str = ""
    """In place of a value, in messages."""

    @property
    def flag(self) -> str:
        return self.metavar if self.is_positional else f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        return self.called or (self.name.upper() if self.is_positional else self.flag)


@cache
def settings_of(cls: type) -> tuple[Setting, ...]:
    """The settings that a dataclass declares, those of the classes it is derived from first."""
    kinds, texts = get_type_hints(cls), dict(_texts(cls))
    return tuple(
        Setting(
            name=field.metadata.get("setting", field.name),
            field=field.name,
            kind=kinds[field.name],
            default=field.default if field.default_factory is MISSING else field.default_factory(),
            text=texts.get(field.name, ""),
            is_positional=field.metadata.get("positional", False),
            aliases=field.metadata.get("aliases", ()),
            called=field.metadata.get("metavar", ""),
        )
        for field in fields(cls)
        if field.metadata.get("setting", field.name) is not None
    )


def _texts(cls: type) -> Iterator[tuple[str, str]]:
    """The text below each field, as one line."""
    for base in reversed(cls.__mro__):
        if "__annotations__" not in vars(base):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(below))):
                    yield name, " ".join(below.split())
