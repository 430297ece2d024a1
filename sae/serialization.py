"""Save and load dictionaries in the native layout, the inference layout of SAELens v6.

A folder holds `cfg.json` and `sae_weights.safetensors`. What SAELens has no key for (that a
dictionary is tied, the settings it was trained with) is under `metadata.featureloom`.

Files are untrusted: nothing is allocated before the config and the shapes in the file agree,
and what the config says twice must be said alike.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from activation_cache.common.dtypes import name_of
from activation_cache.common.errors import InputError
from activation_cache.common.files import write_json, write_together
from activation_cache.common.schema import LARGEST, convert, listed, parse_json, shown
from sae.architectures import ARCHITECTURES
from sae.base import SAE
from sae.provenance import Provenance
from sae.trainable import TrainableConfig, TrainableSAE

LARGEST_CONFIG = 2**20
"""Bytes of a config that are read; one that was saved has about a thousand."""

REMEDY = "restore it from a copy, or train the dictionary again"

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"

STORED_DTYPES = ("F16", "BF16", "F32", "F64")
"""Number formats of weights, as safetensors calls them."""

LAYOUT_VERSION = "6.0.0"
"""Without it, SAELens takes a file for one of version 5 and forgets its metadata."""

FOREIGN_NAMES = {"relu": "standard"}
"""SAELens' names of what a saved dictionary computes, where they are not ours."""


def save(sae: SAE, folder: str | Path) -> None:
    """Write a dictionary so that `load` returns it bit for bit, and SAELens v6 can read it.

    Each file is written aside and then renamed, the config last.
    """
    if not isinstance(sae, TrainableSAE):
        raise InputError(
            f"a dictionary that is {sae.cfg.architecture} is none of ours: write it with "
            f"sae.interop.export in a layout that can express it"
        )
    tensors = {
        name: contiguous(tensor) for name, tensor in (*_stored(sae).items(), ("W_enc", sae.W_enc))
    }
    files = {
        WEIGHTS_FILE: lambda path: save_file(tensors, path),
        CONFIG_FILE: lambda path: write_json(path, _to_json(sae)),
    }
    write_together(Path(folder), files)


def load(path: str | Path, *, device: str | torch.device = "cpu") -> TrainableSAE:
    """Load a dictionary from its folder, or from the folder of the run that made it.

    Raises `InputError` where the folder, its config or its weights cannot be used.
    """
    try:
        folder = _folder(Path(path))
        config = read_config(folder / CONFIG_FILE)
        cfg, d_in, provenance = _from_json(config, folder / CONFIG_FILE)
        sae = _read_weights(folder / WEIGHTS_FILE, cfg, d_in)
    except OSError as error:
        raise InputError(
            f"cannot read the dictionary at {path} ({error.strerror or error}): name the --out of "
            f"a run, or a folder that sae.save wrote"
        ) from error
    sae.provenance = provenance
    _refuse_contradictions(config, _to_json(sae), folder / CONFIG_FILE)
    sae.is_fresh = False
    return sae.to(device)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from an untrusted file; `InputError` where it is none."""
    with path.open("rb") as file:
        data = file.read(LARGEST_CONFIG + 1)
    if len(data) > LARGEST_CONFIG:
        raise InputError(f"{path} has more than {LARGEST_CONFIG:,} bytes: no config; {REMEDY}")
    try:
        return parse_json(data, path.name)
    except InputError as error:
        raise InputError(
            f"the dictionary at {path.parent} is damaged: {error}; {REMEDY}"
        ) from error


def contiguous(tensor: Tensor) -> Tensor:
    """A tensor as files hold it: in memory of its own order, with nothing attached."""
    return tensor.detach().cpu().contiguous()


def is_native(path: Path) -> bool:
    """Whether a folder is that of a run, or of a dictionary that `save` wrote."""
    folder = path / "sae" if (path / "sae" / CONFIG_FILE).is_file() else path
    if not (folder / CONFIG_FILE).is_file():
        return False
    metadata = read_config(folder / CONFIG_FILE).get("metadata")
    return isinstance(metadata, dict) and "featureloom" in metadata


def _folder(path: Path) -> Path:
    folder = path / "sae" if (path / "sae" / CONFIG_FILE).is_file() else path
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InputError(
                f"no dictionary at {path}: {folder / name} is missing; name the --out of a run, or "
                f"a folder that sae.save wrote"
            )
    return folder


# The config --------------------------------------------------------------------------------------


def _to_json(sae: TrainableSAE) -> dict[str, Any]:
    architecture, activation = sae.cfg.architecture, sae.cfg.activation
    own = {"architecture": architecture, "config": asdict(sae.cfg)}
    known = sae.provenance.to_metadata()
    layout: dict[str, Any] = {
        "architecture": FOREIGN_NAMES.get(activation, activation) if activation else architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": name_of(sae.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if is_of_heads(sae) else "none",
        "metadata": {
            **known,
            "sae_lens_version": LAYOUT_VERSION,
            "featureloom": own,
        },
    }
    if activation == "topk":
        layout |= {"k": own["config"]["k"], "rescale_acts_by_decoder_norm": False}
    return layout


def is_of_heads(sae: SAE) -> bool:
    """Whether inputs are the outputs of attention heads, which SAELens is told to flatten."""
    return str(sae.hook_name).endswith("hook_z")


def _from_json(config: dict[str, Any], path: Path) -> tuple[TrainableConfig, int, Provenance]:
    found = config.get("metadata")
    metadata = dict(found) if isinstance(found, dict) else {}
    own = metadata.pop("featureloom", None)
    metadata.pop("sae_lens_version", None)
    if not isinstance(own, dict) or not isinstance(own.get("config"), dict):
        raise InputError(
            f"the dictionary at {path.parent} was not saved by this project "
            f"(no metadata.featureloom in {CONFIG_FILE}): load it with the program that saved it"
        )
    architecture = own.get("architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(
            f"{path.parent} holds a dictionary of the unknown architecture "
            f"{shown(architecture)}: known are {known}"
        )
    d_in: Any = config.get("d_in")
    if not isinstance(d_in, int) or isinstance(d_in, bool) or d_in >= LARGEST:
        raise InputError(f"{path} has {shown(d_in)} for d_in, which is no whole number; {REMEDY}")
    try:
        cfg = convert(ARCHITECTURES[architecture], own["config"], "its config")
        provenance = Provenance.from_metadata(metadata)
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}; {REMEDY}") from error
    return cfg, d_in, provenance


def _refuse_contradictions(
    config: Mapping[str, Any], layout: Mapping[str, Any], path: Path
) -> None:
    """What SAELens reads must be what was read here: it does not know `metadata.featureloom`."""
    own, known = (of["metadata"]["featureloom"] for of in (config, layout))
    unknown = (set(config) - set(layout)) | (set(own) - set(known))
    if unknown:
        raise InputError(f"{path} has unknown keys: {listed(unknown)}; {REMEDY}")
    for name, value in layout.items():
        if name not in ("metadata", "device") and config.get(name, value) != value:
            raise InputError(
                f"{path} says {name} {shown(config[name])}, and the dictionary in it has "
                f"{value!r}; {REMEDY}"
            )


# The weights -------------------------------------------------------------------------------------


def _stored(sae: SAE) -> dict[str, Tensor]:
    """The parameters and buffers by the names that saved files call them."""
    named = (*sae.named_parameters(), *sae.named_buffers())
    return {sae.STORED_NAMES.get(name, name): tensor for name, tensor in named}


def _read_weights(path: Path, cfg: TrainableConfig, d_in: int) -> TrainableSAE:
    try:
        with safe_open(path, framework="pt") as file:
            _check(file, "W_dec", (cfg.d_sae, d_in), path)  # a file vouches for what is allocated
            sae = cfg.build(d_in)
            _fill(sae, file, path)
    except SafetensorError as error:
        raise InputError(
            f"the dictionary at {path.parent} is damaged: {WEIGHTS_FILE}: {error}; {REMEDY}"
        ) from error
    return sae


@torch.no_grad()
def _fill(sae: SAE, file: Any, path: Path) -> None:
    expected = _stored(sae)
    unknown = set(file.keys()) - {*expected, "W_enc"}
    if unknown:
        raise InputError(
            f"{path} does not fit its config: it has unknown tensors {listed(unknown)}; {REMEDY}"
        )
    expected["W_enc"] = sae.W_enc
    for name, ours in expected.items():
        _check(file, name, tuple(ours.shape), path)
        stored = file.get_tensor(name)
        if not torch.isfinite(stored).all():
            raise InputError(
                f"{path} cannot be used: {name} holds NaN or Inf; train the dictionary again with "
                f"a lower learning rate"
            )
        if name != "W_enc":
            ours.data = stored
        elif sae.untied_W_enc_rows is not None:
            sae.untied_W_enc_rows.data = stored.T.contiguous()
        elif not torch.equal(stored, sae.W_dec.T):
            raise InputError(
                f"{path} does not fit its config: the dictionary is tied, and W_enc is not the "
                f"transpose of W_dec; {REMEDY}"
            )


def _check(file: Any, name: str, shape: tuple[int, ...], path: Path) -> None:
    """Compare what a file declares of a tensor with what it has to be. The tensor is not read."""
    found = _misfit(file, name, shape)
    if found is not None:
        raise InputError(
            f"{path} does not fit its config: {name} is {found}, expected {shape}; {REMEDY}"
        )


def _misfit(file: Any, name: str, shape: tuple[int, ...]) -> str | None:
    if name not in file.keys():  # noqa: SIM118 - a file is no mapping
        return "missing"
    declared = file.get_slice(name)
    if tuple(declared.get_shape()) != shape:
        return f"of shape {tuple(declared.get_shape())}"
    dtype = declared.get_dtype()
    if dtype not in STORED_DTYPES or dtype != file.get_slice("W_dec").get_dtype():
        return f"of the type {dtype} and not of one type of {', '.join(STORED_DTYPES)} with W_dec"
    return None
