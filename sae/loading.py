"""Load any dictionary: of a folder or a run, of another project, of the hub, of a release."""

import warnings
from pathlib import Path

import torch

from activation_cache.common.errors import InputError
from sae import interop
from sae.base import SAE
from sae.hub import releases, transfer
from sae.interop.layout import Hints
from sae.interop.layouts import native
from sae.interop.sources import PLACES, Source
from sae.trainable import TrainableSAE


def save(sae: SAE, folder: str | Path) -> None:
    """Write one of ours so that `load` returns it bit for bit, in files that SAELens v6 can read.

    The folder is made; a dictionary that is in it is replaced. A dictionary whose weights are
    random still gives a warning.
    """
    if isinstance(sae, TrainableSAE) and sae.is_fresh:
        warnings.warn(
            "the weights of this dictionary are random: it was not trained. sae.fit trains; "
            "sae.train is a generator, which trains as it is iterated",
            stacklevel=2,
        )
    native.write(sae, folder)


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    norm_scaling_factor: float | None = None,
    index: int | None = None,
) -> SAE:
    """Load a dictionary: one of ours, of a run, or of another project in any layout of `LAYOUTS`.

    `path` is a folder, a file or an address on the hub, hf://user/repo[@revision]/path; of what was
    fetched, `provenance` has the `source` and the commit as `revision`.
    One of ours comes back bit for bit. One of another project computes the features and the
    reconstruction of the original, in float32, and its `provenance` has what its files record of
    its model and site. `norm_scaling_factor` is for files that leave out what activations were
    scaled by; `index` chooses from a file of several. Raises `InputError` where there is no
    dictionary, or one that cannot be loaded exactly, with the reason.
    """
    hints = Hints(norm_scaling_factor=norm_scaling_factor, index=index)
    if not transfer.is_on_hub(path):
        return _load_local(Path(path), hints).to(device)
    fetched = transfer.fetch(str(path))
    try:
        sae = _load_local(fetched.path, hints)
    except InputError as error:
        raise InputError(f"{path} (commit {fetched.revision[:8]}): {error}") from error
    sae.provenance = sae.provenance.updated({"source": str(path), "revision": fetched.revision})
    return sae.to(device)


def _load_local(path: Path, hints: Hints) -> SAE:
    try:
        source = Source(path)
        return interop.layout_of(source).read(source, hints)
    except OSError as error:
        raise InputError(
            f"cannot read the dictionary at {path} ({error.strerror or error}): {PLACES}"
        ) from error
    except InputError as error:  # which may repeat an untrusted file's words, and not know the file
        text = str(error) if str(path) in str(error) else f"{path} cannot be loaded: {error}"
        raise InputError("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)) from error


def load_release(release: str, hook_name: str, *, device: str | torch.device = "cpu") -> SAE:
    """Load a published dictionary; what is known of it here overrides what its files say."""
    location = releases.locate(release, hook_name)
    if not transfer.is_on_hub(location.address):
        raise InputError(
            f"{location.address} is not on the Hugging Face hub: download it, and name the file"
        )
    factor = location.norm_scaling_factor
    sae = load(location.address, device=device, norm_scaling_factor=factor)
    sae.provenance = sae.provenance.updated(location.facts)
    return sae
