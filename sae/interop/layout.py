"""What a layout is, and what whoever loads a file can add to it."""

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from activation_cache.common.errors import InputError
from activation_cache.common.schema import convert
from sae.base import SAE
from sae.interop.sources import Source, keys
from sae.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What files may leave unsaid."""

    norm_scaling_factor: float | None = None
    """What activations were multiplied by before a dictionary that wants a certain mean norm."""
    index: int | None = None
    """Which dictionary of a file that holds several."""

    def __post_init__(self) -> None:
        if self.norm_scaling_factor is not None:
            positive(self.norm_scaling_factor, "norm_scaling_factor")


def positive(value: Any, name: str) -> float:
    """What activations were scaled by; `InputError` where it cannot be undone."""
    factor = convert(float, value, name)
    if not 1e-30 < factor < 1e30:
        raise InputError(f"{name} must be a positive number, got {factor}")
    return factor


@runtime_checkable
class Layout(Protocol):
    """A module that reads one layout. Those that others can read write it too."""

    @property
    def NAME(self) -> str:
        """What `--to` and error messages call it."""
        ...

    def recognises(self, source: Source) -> bool:
        """Whether the files are of this layout, by what is in them."""
        ...

    def read(self, source: Source, hints: Hints) -> SAE:
        """The dictionary in them; `InputError` with the reason where it cannot be had."""
        ...


@runtime_checkable
class WritableLayout(Layout, Protocol):
    """A layout that dictionaries of ours can be written in."""

    def write(self, sae: SAE, folder: Path) -> None:
        """Write its files into a folder. `InputError` where the layout cannot express it."""
        ...


MODEL_NAMES = {"gpt2-small": "gpt2", "gpt2_small": "gpt2", "openai-community/gpt2": "gpt2"}
"""Hub ids of models that projects call otherwise."""


@cache
def harmless_keys(project: str) -> frozenset[str]:
    """Keys of a project's configs that change nothing of what a trained dictionary computes."""
    known = tomllib.loads(Path(__file__).with_name("harmless_keys.toml").read_text())
    return keys(*known[project].values())


def facts(**known: Any) -> Provenance:
    """What files say of where a dictionary belongs, by our names. None, and a value of another kind
    than a name has, are not known."""
    if isinstance(known.get("model_name"), str):
        known["model_name"] = MODEL_NAMES.get(known["model_name"], known["model_name"])
    found = Provenance()
    for name, value in known.items():
        with suppress(InputError):
            found = found if value is None else found.updated({name: value})
    return found


def processing(kwargs: Mapping[str, Any] | None) -> str:
    """How activations were had, from TransformerLens' options for loading the model.

    Folding layer norm and centring the unembedding change none of our sites by themselves.
    """
    options = {"center_writing_weights": "centred", "fold_value_biases": "folded_value_biases"}
    folded = [name for option, name in options.items() if (kwargs or {}).get(option)]
    return "+".join(folded) or "raw"
