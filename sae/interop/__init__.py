"""Dictionaries as files: ours, and those of other projects, read to the same features.

One file for each layout; `LAYOUTS` is their registry. A layout is recognised by what is in the
files, not by their names alone.
"""

from pathlib import Path

from activation_cache.common.errors import InputError
from sae.base import SAE
from sae.interop.layout import Layout, WritableLayout
from sae.interop.layouts import (
    dictionary_learning,
    gemma_scope,
    hook_z,
    native,
    openai,
    openmoss,
    saelens,
    saelens_legacy,
    sparse_coding,
    sparsify,
)
from sae.interop.pretrained import Moments, PretrainedConfig, PretrainedSAE
from sae.interop.sources import PLACES, Source

__all__ = ["LAYOUTS", "Moments", "PretrainedConfig", "PretrainedSAE", "export", "layout_of"]

LAYOUTS: tuple[Layout, ...] = (
    native,
    saelens,
    saelens_legacy,
    openmoss,
    dictionary_learning,
    sparsify,
    openai,
    hook_z,
    gemma_scope,
    sparse_coding,
)


def export(sae: SAE, folder: str | Path, *, to: str) -> None:
    """Write a dictionary in the layout of another project, by the layout's `NAME`.

    Raises `InputError` where the layout cannot express what the dictionary computes.
    """
    writers = {of.NAME: of for of in LAYOUTS if isinstance(of, WritableLayout)}
    if to not in writers:
        raise InputError(f"no dictionary can be written as {to!r}: use {', '.join(writers)}")
    writers[to].write(sae, Path(folder))


def layout_of(source: Source) -> Layout:
    """The layout of some files, by what is in them; `InputError` where it is none that is known."""
    failures: list[InputError] = []
    for layout in LAYOUTS:
        try:
            if layout.recognises(source):
                return layout
        except InputError as error:  # files that have the names of a layout, and are damaged
            failures.append(error)
    if failures:
        raise failures[0]
    names = ", ".join(source.names)[:200] or "no file"
    raise InputError(
        f"no dictionary at {source.path}: there is {names}, in none of the layouts "
        f"{', '.join(layout.NAME for layout in LAYOUTS)}; {PLACES}"
    )
