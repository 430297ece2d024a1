"""Save and load dictionaries in the native layout, the inference layout of SAELens v6.

A folder holds `cfg.json` and `sae_weights.safetensors`. What SAELens has no key for (that a
dictionary is tied, the settings it was trained with) is under `metadata.featureloom`.

Files come from strangers: nothing is allocated before the config and the shapes in the file agree,
and what the config says twice must be said alike.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae.architectures import ARCHITECTURES, AnySAEConfig
from sae.base import SAE
from sae.errors import InputError
from sae.files import REMEDY, plain, read_config, write_files, write_json

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"

STORED_DTYPES = ("F16", "BF16", "F32", "F64")
"""Number formats of weights, as safetensors calls them."""

LAYOUT_VERSION = "6.0.0"
"""Without it, SAELens takes a file for one of version 5 and forgets its metadata."""

FOREIGN_NAMES = {"relu": "standard", "batch_topk": "jumprelu", "matryoshka": "jumprelu"}
"""SAELens' names of what a saved dictionary computes, where they are not ours."""


def save(sae: SAE, folder: str | Path) -> None:
    """Write a dictionary so that `load` returns it bit for bit, and SAELens v6 can read it.

    Each file is written aside and then renamed, the config last.
    """
    if sae.input_scale != 1.0:
        raise ValueError("fold_input_scale_ first: a saved dictionary takes raw activations")
    if sae.cfg.architecture not in ARCHITECTURES:
        raise InputError(
            f"a dictionary that is {sae.cfg.architecture} is none of ours: write it with "
            f"sae.interop.export in a layout that can express it"
        )
    tensors = {
        name: plain(tensor) for name, tensor in (*_stored(sae).items(), ("W_enc", sae.W_enc))
    }
    files = {
        WEIGHTS_FILE: lambda path: save_file(tensors, path),
        CONFIG_FILE: lambda path: write_json(path, _to_json(sae)),
    }
    write_files(Path(folder), files)


def load(path: str | Path, *, device: str | torch.device = "cpu") -> SAE:
    """Load a dictionary from its folder, or from the folder of the run that made it.

    Raises `InputError` where the folder, its config or its weights cannot be used.
    """
    try:
        folder = _folder(Path(path))
        config = read_config(folder / CONFIG_FILE)
        cfg, d_in, metadata = _from_json(config, folder / CONFIG_FILE)
        sae = _read_weights(folder / WEIGHTS_FILE, cfg, d_in)
    except OSError as error:
        raise InputError(
            f"cannot read the dictionary at {path} ({error.strerror or error}): name the --out of "
            f"a run, or a folder that sae.save wrote"
        ) from error
    sae.metadata = metadata
    _refuse_contradictions(config, _to_json(sae), folder / CONFIG_FILE)
    sae.is_fresh = False
    return sae.to(device)


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


def _to_json(sae: SAE) -> dict[str, Any]:
    architecture = sae.cfg.architecture
    own = {"architecture": architecture, "config": asdict(sae.cfg)}
    layout: dict[str, Any] = {
        "architecture": FOREIGN_NAMES.get(architecture, architecture),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if is_of_heads(sae) else "none",
        "metadata": {**sae.metadata, "sae_lens_version": LAYOUT_VERSION, "featureloom": own},
    }
    if architecture == "topk":
        layout |= {"k": own["config"]["k"], "rescale_acts_by_decoder_norm": False}
    return layout


def is_of_heads(sae: SAE) -> bool:
    """Whether inputs are the outputs of attention heads, which SAELens is told to flatten."""
    return str(sae.hook_name).endswith("hook_z")


def _from_json(config: dict[str, Any], path: Path) -> tuple[AnySAEConfig, int, dict[str, Any]]:
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
            f"{_shown(architecture)}: known are {known}"
        )
    d_in: Any = config.get("d_in")
    if not _fits(int, d_in):
        raise InputError(f"{path} has {_shown(d_in)} for d_in, which is no whole number; {REMEDY}")
    given = _settings(ARCHITECTURES[architecture], own["config"], path)
    try:
        return ARCHITECTURES[architecture](**given), d_in, metadata
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}; {REMEDY}") from error


def _settings(cls: type[AnySAEConfig], content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What a config is built from, every value of the kind that it has to be."""
    kinds = get_type_hints(cls)
    unknown = set(content) - {field.name for field in fields(cls)}
    if unknown:
        raise InputError(f"{path} has unknown keys: {_listed(unknown)}; {REMEDY}")
    missing = {f.name for f in fields(cls) if f.default is MISSING} - set(content)
    if missing:
        raise InputError(f"{path} lacks the keys {_listed(missing)}; {REMEDY}")
    for name, value in content.items():
        if not _fits(kinds[name], value):
            raise InputError(
                f"{path} has {_shown(value)} for {name}, which is no {_kind(kinds[name])}; {REMEDY}"
            )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


def _fits(kind: Any, value: Any) -> bool:
    """Whether JSON's value is of the kind that a config annotates."""
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(get_args(kind)[0], item) for item in value)
    if kind is bool:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) < 2**63
    return kind is float and isinstance(value, float) and math.isfinite(value)


def _kind(kind: Any) -> str:
    names = {bool: "truth value (true or false)", int: "whole number", float: "finite number"}
    return names.get(kind, "list of whole numbers")


def _shown(value: Any) -> str:
    """A value of a file for an error message, however long it is."""
    text = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))[:200]


def _refuse_contradictions(
    config: Mapping[str, Any], layout: Mapping[str, Any], path: Path
) -> None:
    """What SAELens reads must be what was read here: it does not know `metadata.featureloom`."""
    own, known = (of["metadata"]["featureloom"] for of in (config, layout))
    unknown = (set(config) - set(layout)) | (set(own) - set(known))
    if unknown:
        raise InputError(f"{path} has unknown keys: {_listed(unknown)}; {REMEDY}")
    for name, value in layout.items():
        if name not in ("metadata", "device") and config.get(name, value) != value:
            raise InputError(
                f"{path} says {name} {_shown(config[name])}, and the dictionary in it has "
                f"{value!r}; {REMEDY}"
            )


# The weights -------------------------------------------------------------------------------------


def _stored(sae: SAE) -> dict[str, Tensor]:
    """The parameters and buffers by the names that saved files call them."""
    named = (*sae.named_parameters(), *sae.named_buffers())
    return {sae.STORED_NAMES.get(name, name): tensor for name, tensor in named}


def _read_weights(path: Path, cfg: AnySAEConfig, d_in: int) -> SAE:
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
            f"{path} does not fit its config: it has unknown tensors {_listed(unknown)}; {REMEDY}"
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
