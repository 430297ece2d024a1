"""Dictionaries written for SAELens, in the layout of its version 6."""

import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.types import foldings
from sae.base import SAE
from sae.interop.exporting import as_pretrained, biases, refuse_inexpressible, write_files
from sae.interop.layouts import native
from sae.interop.layouts.native import CONFIG_FILE, LAYOUT_VERSION, WEIGHTS_FILE
from sae.interop.layouts.saelens_keys import ACTIVATIONS, NORMALIZATIONS
from sae.interop.pretrained import Activation, PretrainedSAE
from sae.provenance import Provenance


def write(sae: SAE, folder: Path) -> None:
    """One of ours as `sae.save` writes it; of another project, what SAELens has a name for."""
    metadata = _metadata(sae)
    if not isinstance(sae, PretrainedSAE):
        as_pretrained(sae)  # refuses what no other project has a word for
        named = copy.copy(sae)
        named.provenance = Provenance.from_metadata(metadata)
        native.write(named, folder)
        return
    architecture = _architecture(sae)
    normalizations = {ours: theirs for theirs, ours in NORMALIZATIONS.items()} | {"none": "none"}
    config = native.saelens_config(sae, architecture, metadata) | {
        "apply_b_dec_to_input": sae.cfg.subtracts_b_dec and "transcoder" not in architecture,
        "normalize_activations": normalizations[sae.cfg.normalization],
        "reshape_activations": metadata.pop("reshape_activations", "none"),
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
    write_files(folder, WEIGHTS_FILE, _stored(sae, architecture), CONFIG_FILE, config)


def _metadata(sae: SAE) -> dict[str, Any]:
    metadata = {**sae.provenance.to_metadata(), "sae_lens_version": LAYOUT_VERSION}
    if "processing" in metadata:
        folded = foldings(metadata["processing"])
        options = {"center_writing_weights": "centred", "fold_value_biases": "folded_value_biases"}
        kwargs = {option: True for option, name in options.items() if name in folded}
        metadata["model_from_pretrained_kwargs"] = kwargs
    for name in ("hook_name", "hook_name_out"):  # of a model whose sites are modules
        if f"hf_{name}" in metadata:
            metadata.setdefault(name, metadata.pop(f"hf_{name}"))
    return metadata


def _architecture(sae: PretrainedSAE) -> str:
    """SAELens' name of what the dictionary computes; `InputError` where it has none."""
    theirs: dict[Activation, str] = {
        ours: name for name, ours in reversed(list(ACTIVATIONS.items()))
    }
    refuse_inexpressible(sae, "saelens", theirs, normalizes=True, transcodes=True, skips=True)
    architecture = theirs[sae.cfg.activation]
    if sae.W_skip is None and sae.d_out == sae.d_in and not sae.provenance.hook_name_out:
        return architecture
    kind = "transcoder" if sae.W_skip is None else "skip_transcoder"
    if architecture not in ("standard", "jumprelu") or sae.cfg.normalization != "none":
        raise InputError(
            f"saelens files cannot express a {kind} with activation {sae.cfg.activation} and "
            f"normalization {sae.cfg.normalization}: write it in another layout"
        )
    return kind if architecture == "standard" else f"jumprelu_{kind}"


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
