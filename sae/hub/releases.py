"""Published dictionaries by name: where they are, and what has to be known beside their files.

releases.toml holds the facts; its first lines say how.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError
from sae.hub import transfer as hub

NUMBERS = ("layer", "l0")
"""Placeholders that stand for numbers."""

FIGURES = ("l0", "variance_explained")

MOST_NAMES = 13
"""Names that an error shows."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What its makers say of a dictionary."""

    d_sae: int | None = None
    l0: float | None = None
    variance_explained: float | None = None
    figures: str | None = None
    """How far the figures can be trusted."""

    def __str__(self) -> str:
        """The figures for a reader; empty where there are none."""
        named = {"l0": self.l0, "variance explained": self.variance_explained}
        text = ", ".join(f"{name} {value:g}" for name, value in named.items() if value is not None)
        return f"{text} ({self.figures})" if text and self.figures else text


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a dictionary is, and what its files leave out."""

    address: str
    norm_scaling_factor: float | None = None
    facts: Mapping[str, Any]
    """Metadata: its model, its site, and how activations were had."""
    published: Published


@dataclass(frozen=True)
class Entry:
    """One dictionary of a release, or a pattern for many: then its texts have {placeholders}."""

    values: Mapping[str, Any]
    """Its id, its path and sites, and what is known of it."""

    @property
    def id(self) -> str:
        return self.values["id"]

    def match(self, name: str) -> "Entry | None":
        """The entry of that id, its placeholders filled in."""
        texts = re.split(r"\{(\w+)\}", self.id)
        pattern = "".join(
            rf"(?P<{text}>{'[0-9]' if text in NUMBERS else '[^/]'}+)" if i % 2 else re.escape(text)
            for i, text in enumerate(texts)
        )
        found = re.fullmatch(pattern, name)
        return None if found is None else self.filled(found.groupdict())

    def filled(self, more: Mapping[str, Any]) -> "Entry":
        values = {**self.values, **more}
        return Entry({name: _replaced(value, values) for name, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class Release:
    """Dictionaries that were published together."""

    name: str
    repo: str
    revision: str | None = None
    """A commit, a branch or a tag; the newest where none is known."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    figures: str | None = None
    entries: tuple[Entry, ...]

    def locate(self, name: str) -> Location:
        """The dictionary of an id or of a site. `InputError` where there is none, or several."""
        found = [entry for entry in (entry.match(name) for entry in self.entries) if entry]
        found = found or [of for of in self.entries if of.values.get("hook_name") == name]
        if len(found) != 1:
            what = f"several dictionaries for {name}" if found else f"no {name!r}"
            known = _closest(name, [entry.id for entry in found or self.entries])
            raise InputError(f"{self.name} has {what}: name one of {known}")
        values, path = found[0].values, found[0].values["path"]
        on_hub = hub.HubPath(repo=self.repo, revision=self.revision, path=path)
        sites = {name: values[name] for name in ("hook_name", "hook_name_out") if name in values}
        numbers = {name: float(values[name]) for name in FIGURES if name in values}
        return Location(
            address=f"{self.repo}/{path}" if "://" in self.repo else str(on_hub),
            norm_scaling_factor=values.get("norm_scaling_factor"),
            facts={**self.facts, **sites},
            published=Published(d_sae=values.get("d_sae"), **numbers, figures=self.figures),
        )


@cache
def releases() -> tuple[Release, ...]:
    """All that are known."""
    with Path(__file__).with_name("releases.toml").open("rb") as file:
        content = tomllib.load(file)
    return tuple(release for entry in content["release"] for release in _releases(entry))


def locate(release: str, hook_name: str) -> Location:
    """Where the dictionary of a release for a site is; or that of an id, where there are several.

    Raises `InputError` with the known names where there is none.
    """
    named = {known.name: known for known in releases()}
    if release not in named:
        raise InputError(f"unknown release {release!r}: known are {_closest(release, named)}")
    return named[release].locate(hook_name)


# The file ----------------------------------------------------------------------------------------


def _releases(content: dict[str, Any]) -> Iterator[Release]:
    """An entry of the file is one release, or one for each `of`."""
    several: dict[str, dict[str, Any]] = content.pop("of", {})
    sites = content.pop("sites")
    for of, values in several.items() if several else [("", {})]:
        named = {"of": of, **values} if several else {}
        entries = tuple(entry for site in sites for entry in _entries(site, named))
        texts = {name: _replaced(content[name], named) for name in ("name", "repo")}
        yield Release(**{**content, **texts}, entries=entries)


def _entries(site: Mapping[str, Any], named: Mapping[str, Any]) -> Iterator[Entry]:
    """All dictionaries of a pattern, or the pattern where it has no columns."""
    values = {"id": site.get("hook_name"), **site, **named}
    if "layers" in values:
        first, last = map(int, values.pop("layers").split("-"))
        values["layer"] = list(range(first, last + 1))
    columns = {name: value for name, value in values.items() if isinstance(value, list)}
    pattern = Entry({name: value for name, value in values.items() if name not in columns})
    for row in zip(*columns.values(), strict=True) if columns else [()]:
        yield pattern.filled(dict(zip(columns, row, strict=True)))


def _replaced(value: Any, values: Mapping[str, Any]) -> Any:
    """A text with the placeholders that are known; others stay for who knows them."""
    if not isinstance(value, str):
        return value
    return re.sub(r"\{(\w+)\}", lambda m: str(values.get(m[1], m[0])), value)


def _closest(name: str, known: Iterable[str]) -> str:
    """The names that are most like one, or all where they are few."""
    names = list(known)
    closest = difflib.get_close_matches(name, names, n=MOST_NAMES, cutoff=0.0)
    shown = [known for known in names if known in closest]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more, which releases.toml has" if more else "")
