"""Dictionaries of other projects: read to the same features, and ours written for them.

One file for each layout; `LAYOUTS` is their registry. A layout is recognised by what is in the
files, not by their names alone.
"""

from pathlib import Path

import torch

from sae.base import SAE
from sae.errors import InputError
from sae.interop import saelens
from sae.interop.layouts import Hints, Layout
from sae.interop.pretrained import Moments, PretrainedConfig, PretrainedSAE
from sae.interop.sources import Source
from sae.serialization import is_native
from sae.serialization import load as load_native

__all__ = ["LAYOUTS", "Moments", "PretrainedConfig", "PretrainedSAE", "load"]

LAYOUTS: tuple[Layout, ...] = (saelens,)


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    norm_scaling_factor: float | None = None,
    index: int | None = None,
) -> SAE:
    """Load a dictionary: one of ours, of a run, or of another project in any layout of `LAYOUTS`.

    One of ours comes back bit for bit. One of another project computes the features and the
    reconstruction of the original, in float32, and says in `metadata` what its files say of its
    model and site. `norm_scaling_factor` is for files that leave out what activations were scaled
    by; `index` chooses from a file of several. Raises `InputError` where there is no dictionary, or
    one that cannot be had exactly, with the reason.
    """
    path = Path(path)
    if is_native(path):
        return load_native(path, device=device)
    source = Source(path)
    hints = Hints(norm_scaling_factor=norm_scaling_factor, index=index)
    try:
        return _layout_of(source).read(source, hints).to(device)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error})") from error


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
    names = ", ".join(source.names)[:200] or "nothing"
    raise InputError(
        f"no dictionary at {source.path}: there is {names}, which is none of the layouts "
        f"{', '.join(layout.NAME for layout in LAYOUTS)}; name the --out of a run, or the folder "
        f"or file of a dictionary"
    )
