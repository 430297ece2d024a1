"""The model card of a dictionary that is published: what it is for, how it was made, how good."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from activation_cache.common.numbers import format_number
from sae.base import SAE
from sae.hub.transfer import HubPath
from sae.pages.templates import template

LONGEST_VALUE = 200
PLAIN = (str, int, float)


def model_card(
    sae: SAE,
    where: HubPath,
    *,
    metrics: Mapping[str, Any] | None = None,
    conventions: Mapping[str, Any] | None = None,
) -> str:
    """README.md, in Markdown. All that files say is text in it, and nothing but text."""
    known = {"d_in": sae.d_in, "architecture": sae.cfg.architecture, **asdict(sae.cfg)}
    settings = known | sae.provenance.to_metadata()
    numbers = {n: v for n, v in (metrics or {}).items() if _is_finite(v)}
    site = f"{sae.hook_name or 'an unnamed site'} of {sae.provenance.model_name or 'a model'}"
    card = template(Path(__file__).with_name("card.md.jinja"))  # which `plain` makes safe
    return card.render(
        title=plain(f"{sae.d_sae:,} features of {site}"),
        summary=plain(f"A sparse dictionary ({sae.cfg.architecture}) for {site}.", longest=500),
        address="".join(c for c in str(where) if c.isprintable() and c not in '"\\`'),
        d_in=sae.d_in,
        settings=[(plain(n), plain(v)) for n, v in _flat(settings)],
        numbers=[
            (plain(n), format_number(v), plain((conventions or {}).get(n, ""), longest=500))
            for n, v in numbers.items()
        ],
    )


def plain(value: Any, *, longest: int = LONGEST_VALUE) -> str:
    """A value as one line of Markdown that is read as it stands."""
    text = " ".join(str(value)[:longest].split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return re.sub(r"([\\`*_{}\[\]<>|#!~$])", r"\\\1", text)


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings that fit on a line: a list as one, a mapping as an entry for each of its own."""
    for name, value in settings.items():
        if isinstance(value, PLAIN):
            yield name, value
        elif isinstance(value, list | tuple) and all(isinstance(v, PLAIN) for v in value):
            yield name, ", ".join(map(str, value))
        elif isinstance(value, Mapping):
            yield from _flat({f"{name}.{key}": inner for key, inner in value.items()})


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 10**300 and math.isfinite(value)
