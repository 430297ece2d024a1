"""Save and load dictionaries in the native layout, the inference layout of SAELens v6.

A folder holds `cfg.json` and `sae_weights.safetensors`. What SAELens has no key for (that a
dictionary is tied, the settings it was trained with) is under `metadata.featureloom`.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae.architectures import ARCHITECTURES, AnySAEConfig
from sae.base import SAE
from sae.errors import InputError

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"

FOREIGN_NAMES = {"relu": "standard", "batch_topk": "jumprelu", "matryoshka": "jumprelu"}
"""SAELens' names of what a saved dictionary computes, where they are not ours."""


def save(sae: SAE, folder: str | Path) -> None:
    """Write a dictionary so that `load` returns it bit for bit, and SAELens v6 can read it.

    Each file is written aside and then renamed, the config last.
    """
    if sae.input_scale != 1.0:
        raise ValueError("fold_input_scale_ first: a saved dictionary takes raw activations")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {
        sae.STORED_NAMES.get(name, name): tensor
        for name, tensor in (*sae.named_parameters(), *sae.named_buffers())
    }
    tensors["W_enc"] = sae.W_enc
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / f"{WEIGHTS_FILE}.part",
    )
    (folder / f"{CONFIG_FILE}.part").write_text(json.dumps(_to_json(sae), indent=2) + "\n")
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        (folder / f"{name}.part").replace(folder / name)


def load(path: str | Path, *, device: str | torch.device = "cpu") -> SAE:
    """Load a dictionary from its folder, or from the folder of the run that made it.

    Raises `InputError` where the folder, its config or its weights cannot be used.
    """
    folder = Path(path)
    if (folder / "sae" / CONFIG_FILE).is_file():
        folder = folder / "sae"
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InputError(f"no dictionary at {path}: {folder / name} is missing")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        tensors = load_file(folder / WEIGHTS_FILE)
    except (ValueError, SafetensorError) as error:
        raise InputError(f"the dictionary at {folder} is damaged: {error}") from error
    cfg, d_in, metadata = _from_json(config, folder)
    sae = cfg.build(d_in)
    sae.metadata = metadata
    _fill(sae, tensors, folder)
    sae.is_fresh = False
    return sae.to(device)


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
        "reshape_activations": "none",
        "metadata": {**sae.metadata, "featureloom": own},
    }
    if architecture == "topk":
        layout |= {"k": own["config"]["k"], "rescale_acts_by_decoder_norm": False}
    return layout


def _from_json(config: dict[str, Any], folder: Path) -> tuple[AnySAEConfig, int, dict[str, Any]]:
    metadata = dict(config.get("metadata") or {})
    own = metadata.pop("featureloom", None)
    if own is None:
        raise InputError(
            f"the dictionary at {folder} was not saved by this project "
            f"(no metadata.featureloom in {CONFIG_FILE})"
        )
    if own.get("architecture") not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(
            f"{folder} holds a dictionary of the unknown architecture "
            f"{own.get('architecture')!r}: known are {known}"
        )
    cls = ARCHITECTURES[own["architecture"]]
    unknown = set(own["config"]) - {field.name for field in fields(cls)}
    if unknown:
        raise InputError(f"{folder / CONFIG_FILE} has unknown keys: {', '.join(sorted(unknown))}")
    given: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in own["config"].items()
    }
    return cls(**given), int(config["d_in"]), metadata


@torch.no_grad()
def _fill(sae: SAE, tensors: dict[str, Tensor], folder: Path) -> None:
    for name, ours in (*sae.named_parameters(), *sae.named_buffers()):
        name = sae.STORED_NAMES.get(name, name)
        is_encoder = ours is sae.untied_W_enc_rows
        shape = ours.T.shape if is_encoder else ours.shape
        stored = tensors.get(name)
        if stored is None or stored.shape != shape:
            found = "missing" if stored is None else f"of shape {tuple(stored.shape)}"
            raise InputError(
                f"{folder / WEIGHTS_FILE} does not fit its config: {name} is {found}, expected "
                f"{tuple(shape)}"
            )
        ours.data = stored.T.contiguous() if is_encoder else stored
