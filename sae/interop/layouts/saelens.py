"""SAELens, version 6: `cfg.json` with `metadata`, and `sae_weights.safetensors`.

Older configs and training checkpoints have files of their own, which end in `assemble` here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.interop.folding import Whitening, fold_decoder_norms_, fold_scale_, fold_whitening_
from sae.interop.layout import Hints, facts, processing
from sae.interop.layouts.saelens_export import write
from sae.interop.layouts.saelens_keys import (
    ACTIVATIONS,
    NORMALIZATIONS,
    name_in,
    refuse_unknown_keys,
    setting,
)
from sae.interop.pretrained import Activation, PretrainedConfig, PretrainedSAE
from sae.interop.sources import DOWNLOAD, Source, Tensors, json_of
from sae.provenance import Provenance
from sae.serialization import CONFIG_FILE, WEIGHTS_FILE

__all__ = ["NAME", "read", "recognises", "write"]

NAME = "saelens"

REFUSED = {
    "temporal": "its features depend on the tokens before, and a dictionary here takes one token",
    "crosscoder": "it reads several sites at once, and a dictionary here reads one",
}

FACTS = (
    *("model_name", "model_class_name", "hook_name", "hook_name_out", "hook_head_index"),
    *("dataset_path", "context_size", "prepend_bos", "seqpos_slice", "exclude_special_tokens"),
    *("sequence_separator_token", "disable_concat_sequences", "neuronpedia_id"),
    *("sae_lens_training_version", "training_architecture", "hf_hook_name", "hf_hook_name_out"),
)
"""What of SAELens' metadata is kept, under its own names, which are those used here."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What is known beside the config of how activations were normalised."""

    scale: float | None = None
    whitening: Whitening | None = None


def holds_files(source: Source) -> bool:
    """Whether the two files of a dictionary are there, and meant."""
    files = (CONFIG_FILE, WEIGHTS_FILE)
    return source.has(*files) and any(name in source.names for name in files)


def recognises(source: Source) -> bool:
    return holds_files(source) and isinstance(source.config(CONFIG_FILE).get("metadata"), dict)


def read(source: Source, hints: Hints) -> PretrainedSAE:
    config = source.config(CONFIG_FILE)
    given = Given(scale=hints.norm_scaling_factor)
    return assemble(config, source.tensors(WEIGHTS_FILE), facts_of(config), given)


def facts_of(config: Mapping[str, Any]) -> Provenance:
    """What a config says of where activations came from, of version 6."""
    said: Mapping[str, Any] = config["metadata"]
    known = {name: said.get(name) for name in FACTS}
    known |= {name: name_in(said, name) for name in ("model_name", "hook_name", "hook_name_out")}
    if isinstance(options := said.get("model_from_pretrained_kwargs"), dict):
        known["processing"] = processing(options)  # SAELens itself adds no processing
    if known["model_class_name"] == "AutoModelForCausalLM":  # whose sites are modules
        known["hf_hook_name"] = known.pop("hook_name")
        known["hf_hook_name_out"] = known.pop("hook_name_out")
    if config.get("reshape_activations") == "hook_z":
        known["reshape_activations"] = "hook_z"
    return facts(**known)


# Reading -----------------------------------------------------------------------------------------


def assemble(
    config: Mapping[str, Any], tensors: Tensors, provenance: Provenance, given: Given
) -> PretrainedSAE:
    """The dictionary that a config of version 6 and its tensors are, for raw activations."""
    architecture = setting(config, "architecture", str)
    activation = _activation(architecture)
    refuse_unknown_keys(config)
    normalization = _normalization(config, given)
    subtracts = setting(config, "apply_b_dec_to_input", bool, "transcoder" not in architecture)
    if setting(config, "reshape_activations", str, "none") not in ("none", "hook_z"):
        raise InputError(
            f"cfg.json says reshape_activations {json_of(config['reshape_activations'])}: known "
            f"are none and hook_z"
        )
    if "transcoder" in architecture and (subtracts or normalization != "none"):
        said = f"normalize_activations {normalization}" if not subtracts else "apply_b_dec_to_input"
        raise InputError(
            f"a {architecture} with {said} cannot be had: nothing says what that does to its output"
        )
    pursues = activation == "matching_pursuit"
    k = setting(config, "k", int) if activation in ("topk", "abs_topk") else None
    cfg = PretrainedConfig(
        d_sae=setting(config, "d_sae", int),
        tied=pursues,
        activation=activation,
        k=setting(config, "max_iterations", int, setting(config, "d_in", int)) if pursues else k,
        subtracts_b_dec=subtracts,
        normalization=NORMALIZATIONS[normalization],
        residual_threshold=setting(config, "residual_threshold", float, 1e-2) if pursues else 0.0,
        stops_at_same_support=pursues and setting(config, "stop_on_duplicate_support", bool, True),
    )
    sae = PretrainedSAE(cfg, _weights(architecture, cfg, tensors), provenance)
    if sae.d_in != config.get("d_in"):
        raise InputError(
            f"cfg.json says d_in {json_of(config.get('d_in'))}, and {tensors.path} has weights for "
            f"inputs of width {sae.d_in}; {DOWNLOAD}"
        )
    _fold_(sae, config, normalization, given)
    return sae


def _activation(architecture: str) -> Activation:
    for name, reason in REFUSED.items():
        if name in architecture:
            raise InputError(
                f"a SAELens dictionary of the kind {json_of(architecture)} is refused: {reason}"
            )
    if architecture not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise InputError(f"cfg.json says architecture {json_of(architecture)}: known are {known}")
    return ACTIVATIONS[architecture]


def _normalization(config: Mapping[str, Any], given: Given) -> str:
    """The kind by SAELens' name, of which all is known that must be."""
    kind = setting(config, "normalize_activations", str, "none")
    if kind not in NORMALIZATIONS:
        raise InputError(
            f"cfg.json says normalize_activations {json_of(kind)}: known are "
            f"{', '.join(NORMALIZATIONS)}"
        )
    if kind == "expected_average_only_in":
        if given.scale is None:
            raise InputError(
                "this dictionary is for activations times a factor that its files leave out "
                "(normalize_activations expected_average_only_in): give norm_scaling_factor, which "
                "SAELens lists for each release in its pretrained_saes.yaml"
            )
        if not 0 < given.scale < math.inf:
            raise InputError(f"norm_scaling_factor must be positive, got {given.scale}")
    if kind == "covariance_whitening":
        if given.whitening is None:
            raise InputError(
                "this dictionary is for whitened activations, and activation_whitening.safetensors "
                "is not beside it: put it there, or take what SAELens saves at the end of training"
            )
        if config.get("architecture") == "matching_pursuit":
            raise InputError(
                "covariance_whitening cannot be folded into matching pursuit, whose encoder is tied"
            )
    return kind


def _weights(architecture: str, cfg: PretrainedConfig, tensors: Tensors) -> dict[str, Tensor]:
    weights = {"W_dec": tensors.matrix("W_dec"), "b_dec": tensors.take("b_dec")}
    if not cfg.tied:
        weights["W_enc"] = tensors.matrix("W_enc")
    match cfg.activation:
        case "matching_pursuit":
            weights["b_enc"] = torch.zeros(weights["W_dec"].shape[:1])
            if not cfg.subtracts_b_dec:  # then SAELens does not add it either
                weights["b_dec"] = torch.zeros_like(weights["b_dec"])
        case "gated":
            weights["b_enc"] = tensors.take("b_gate")
            weights |= {name: tensors.take(name) for name in ("r_mag", "b_mag")}
        case _:
            weights["b_enc"] = tensors.take("b_enc")
    if cfg.activation == "jumprelu":
        weights["threshold"] = _threshold(tensors, weights["W_dec"].shape[:1])
    if "skip" in architecture:
        weights["W_skip"] = tensors.matrix("W_skip").T
    tensors.finish()
    return weights


def _threshold(tensors: Tensors, shape: torch.Size) -> Tensor:
    if "log_threshold" in tensors:  # of early training checkpoints
        return tensors.take("log_threshold").exp()
    if "topk_threshold" not in tensors:
        return tensors.take("threshold")
    value = tensors.value("topk_threshold")
    if not math.isfinite(value):
        raise InputError(f"topk_threshold in {tensors.path} is {value}: it cannot be used")
    return torch.full(shape, value, dtype=torch.float64)


def _fold_(sae: PretrainedSAE, config: Mapping[str, Any], kind: str, given: Given) -> None:
    """Fold in SAELens' order, which decides the units of features that are rescaled by norms."""
    architecture = setting(config, "architecture", str)
    rescales = "topk" in architecture and setting(
        config, "rescale_acts_by_decoder_norm", bool, "batchtopk" in architecture
    )
    if kind == "expected_average_only_in" and given.scale is not None:
        fold_scale_(sae, given.scale)
        if rescales and sae.cfg.activation == "jumprelu":
            sae.threshold.data = sae.threshold / given.scale  # as is the norm that it is tested by
    if rescales:
        fold_decoder_norms_(sae)
    if kind == "covariance_whitening" and given.whitening is not None:
        fold_whitening_(sae, given.whitening)
