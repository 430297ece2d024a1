"""Dictionaries of other projects: read to the same features, and ours written for them.

One file for each layout; `LAYOUTS` is their registry. A layout is recognised by what is in the
files, not by their names alone.
"""

from pathlib import Path

import torch

from sae.base import SAE
from sae.errors import InputError
from sae.interop import (
    dictionary_learning,
    gemma_scope,
    hook_z,
    hub,
    openai,
    openmoss,
    saelens,
    saelens_checkpoint,
    saelens_legacy,
    sparse_coding,
    sparsify,
)
from sae.interop.layouts import Hints, Layout, WritableLayout
from sae.interop.pretrained import Moments, PretrainedConfig, PretrainedSAE
from sae.interop.sources import PLACES, Source
from sae.serialization import is_native
from sae.serialization import load as load_native

__all__ = ["LAYOUTS", "Moments", "PretrainedConfig", "PretrainedSAE", "export", "load"]

LAYOUTS: tuple[Layout, ...] = (
    saelens_checkpoint,
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


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    norm_scaling_factor: float | None = None,
    index: int | None = None,
) -> SAE:
    """Load a dictionary: one of ours, of a run, or of another project in any layout of `LAYOUTS`.

    `path` is a folder, a file or an address on the hub, hf://user/repo[@revision]/path; of what was
    fetched, `metadata` says the `source` and the commit as `revision`.
    One of ours comes back bit for bit. One of another project computes the features and the
    reconstruction of the original, in float32, and says in `metadata` what its files say of its
    model and site. `norm_scaling_factor` is for files that leave out what activations were scaled
    by; `index` chooses from a file of several. Raises `InputError` where there is no dictionary, or
    one that cannot be had exactly, with the reason.
    """
    hints = Hints(norm_scaling_factor=norm_scaling_factor, index=index)
    if not hub.is_on_hub(path):
        return _load_local(Path(path), hints).to(device)
    fetched = hub.fetch(str(path))
    try:
        sae = _load_local(fetched.path, hints)
    except InputError as error:
        raise InputError(f"{path} (commit {fetched.revision[:8]}): {error}") from error
    sae.metadata |= {"source": str(path), "revision": fetched.revision}
    return sae.to(device)


def _load_local(path: Path, hints: Hints) -> SAE:
    try:
        if is_native(path):
            return load_native(path)
        source = Source(path)
        return _layout_of(source).read(source, hints)
    except OSError as error:
        raise InputError(
            f"cannot read the dictionary at {path} ({error.strerror or error}): {PLACES}"
        ) from error
    except InputError as error:  # which may repeat a stranger's words, and not know the file
        said = str(error) if str(path) in str(error) else f"{path} cannot be loaded: {error}"
        raise InputError(
            "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in said)
        ) from error


def export(sae: SAE, folder: str | Path, *, to: str) -> None:
    """Write a dictionary in the layout of another project, by the layout's `NAME`.

    Raises `InputError` where the layout cannot express what the dictionary computes.
    """
    writers = {of.NAME: of for of in LAYOUTS if isinstance(of, WritableLayout)}
    if to not in writers:
        raise InputError(f"no dictionary can be written as {to!r}: use {', '.join(writers)}")
    writers[to].write(sae, Path(folder))


def _layout_of(source: Source) -> Layout:
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
