"""Dictionaries written for SAELens, in the layout of its version 6."""

import copy
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from activation_cache.common.dtypes import name_of
from activation_cache.common.errors import InputError
from activation_cache.common.files import write_json, write_together
from sae.base import SAE
from sae.interop.exporting import as_pretrained, biases, has_equal_rows
from sae.interop.layouts.saelens_keys import ACTIVATIONS, NORMALIZATIONS
from sae.interop.pretrained import PretrainedSAE
from sae.provenance import Provenance
from sae.serialization import CONFIG_FILE, LAYOUT_VERSION, WEIGHTS_FILE, contiguous, save


def write(sae: SAE, folder: Path) -> None:
    """One of ours as `sae.save` writes it; of another project, what SAELens has a name for."""
    metadata = _metadata(sae)
    if not isinstance(sae, PretrainedSAE):
        as_pretrained(sae)  # refuses what no other project has a word for
        named = copy.copy(sae)
        named.provenance = Provenance.from_metadata(metadata)
        save(named, folder)
        return
    architecture = _architecture(sae)
    subtracts = sae.cfg.subtracts_b_dec and "transcoder" not in architecture
    normalizations = {ours: theirs for theirs, ours in NORMALIZATIONS.items()} | {"none": "none"}
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": name_of(sae.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": subtracts,
        "normalize_activations": normalizations[sae.cfg.normalization],
        "reshape_activations": metadata.pop("reshape_activations", "none"),
        "metadata": metadata,
    }
    if "topk" in architecture:
        config |= {"k": sae.cfg.k, "rescale_acts_by_decoder_norm": False}
    if "transcoder" in architecture:
        config |= {"d_out": sae.d_out}
    if sae.cfg.activation == "matching_pursuit":
        config |= {
            "residual_threshold": sae.cfg.residual_threshold,
            "max_iterations": sae.cfg.k,
            "stop_on_duplicate_support": sae.cfg.stops_at_same_support,
        }
    stored = {name: contiguous(tensor) for name, tensor in _stored(sae, architecture).items()}
    files = {
        WEIGHTS_FILE: lambda path: save_file(stored, path),
        CONFIG_FILE: lambda path: write_json(path, config),
    }
    write_together(folder, files)


def _metadata(sae: SAE) -> dict[str, Any]:
    metadata = {**sae.provenance.to_metadata(), "sae_lens_version": LAYOUT_VERSION}
    if "processing" in metadata:
        options = {"center_writing_weights": True} if metadata["processing"] == "centred" else {}
        metadata["model_from_pretrained_kwargs"] = options
    for name in ("hook_name", "hook_name_out"):  # of a model whose sites are modules
        if f"hf_{name}" in metadata:
            metadata.setdefault(name, metadata.pop(f"hf_{name}"))
    return metadata


def _architecture(sae: PretrainedSAE) -> str:
    """SAELens' name of what the dictionary computes; `InputError` where it has none."""
    cfg = sae.cfg
    refused = {
        "activation tanh_relu": cfg.activation == "tanh_relu",
        "activation groupmax": cfg.activation == "groupmax",
        "keeps_negative": cfg.activation == "topk" and cfg.keeps_negative,
        "selects_by_decoder_norm": cfg.selects_by_decoder_norm and not has_equal_rows(sae.W_dec),
        "reverses_bias": cfg.reverses_bias,
    }
    theirs = {ours: name for name, ours in reversed(list(ACTIVATIONS.items()))}
    architecture = theirs.get(cfg.activation, "")
    if sae.W_skip is not None or sae.d_out != sae.d_in or sae.provenance.hook_name_out:
        kind = "transcoder" if sae.W_skip is None else "skip_transcoder"
        architecture = {"standard": kind, "jumprelu": f"jumprelu_{kind}"}.get(architecture, "")
        refused[f"a {kind} with activation {cfg.activation}"] = not architecture
        refused[f"a {kind} with normalization {cfg.normalization}"] = cfg.normalization != "none"
    for name, is_so in refused.items():
        if is_so:
            raise InputError(
                f"SAELens has no dictionary with {name}: this one cannot be written for it"
            )
    return architecture


def _stored(sae: PretrainedSAE, architecture: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {"W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if architecture == "matching_pursuit":
        return tensors
    tensors |= {"W_enc": sae.W_enc, "b_enc": sae.b_enc}
    if architecture == "gated":
        tensors |= {"r_mag": sae.r_mag, "b_mag": sae.b_mag, "b_gate": tensors.pop("b_enc")}
    if "jumprelu" in architecture:
        tensors["threshold"] = sae.threshold
    if "transcoder" in architecture:  # SAELens' never subtract b_dec
        tensors |= biases(sae, subtracts_b_dec=False)
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip.T
    return tensors
