"""SAELens, versions 3 to 5: a flat `cfg.json`, and `sae_weights.safetensors`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from activation_cache.common.errors import InputError
from sae.interop.layout import Hints, facts, processing
from sae.interop.layouts.saelens import Given, assemble, holds_files
from sae.interop.layouts.saelens_keys import COMPUTED, name_in, refuse_unknown_keys, setting
from sae.interop.pretrained import PretrainedSAE
from sae.interop.sources import DOWNLOAD, Source, Tensors, json_of
from sae.provenance import Provenance
from sae.serialization import CONFIG_FILE, WEIGHTS_FILE

NAME = "saelens-legacy"

OWN_KEYS = {
    *("activation_fn", "activation_fn_str", "activation_fn_kwargs", "finetuning_scaling_factor")
}
"""What these versions say of what is computed, beside what version 6 says."""

SCALING_TENSORS = ("scaling_factor", "finetuning_scaling_factor")


def recognises(source: Source) -> bool:
    if not holds_files(source):
        return False
    config = source.config(CONFIG_FILE)
    return "d_in" in config and "d_sae" in config and not isinstance(config.get("metadata"), dict)


def read(source: Source, hints: Hints) -> PretrainedSAE:
    config = source.config(CONFIG_FILE)
    refuse_unknown_keys(config, COMPUTED | OWN_KEYS)
    activation, k = _activation(config)
    tensors = source.tensors(WEIGHTS_FILE)
    scaling = _scaling(config, tensors)
    given = Given(scale=hints.norm_scaling_factor)
    sae = assemble(_as_version_6(config, k), tensors, _facts(config), given)
    if activation == "tanh-relu":
        sae.cfg = replace(sae.cfg, activation="tanh_relu")
    if scaling is not None:
        if scaling.shape != sae.b_enc.shape:
            raise InputError(
                f"{tensors.path} has a scaling factor of shape {tuple(scaling.shape)} for "
                f"{sae.d_sae} features; {DOWNLOAD}"
            )
        sae.W_dec.data = sae.W_dec * scaling[:, None].to(sae.dtype)
    return sae


def _activation(config: Mapping[str, Any]) -> tuple[str, int | None]:
    """The function of the pre-activations, and its k where it has one."""
    name = setting(config, "activation_fn_str", str, setting(config, "activation_fn", str, "relu"))
    if setting(config, "activation_fn", str, name) != name:
        raise InputError(
            f"cfg.json says activation_fn {json_of(config['activation_fn'])} and activation_fn_str "
            f"{json_of(name)}: remove the one that is wrong"
        )
    options = config.get("activation_fn_kwargs") or {}
    if not isinstance(options, dict) or set(options) - {"k"}:
        raise InputError(
            f"cfg.json says activation_fn_kwargs {json_of(options)}: known is k, the number of "
            f"features of a token"
        )
    architecture = setting(config, "architecture", str, "standard")
    fits = {"relu": True, "topk": architecture in ("standard", "topk")}
    if not fits.get(name, name == "tanh-relu" and architecture == "standard"):
        raise InputError(
            f"cfg.json says activation_fn {json_of(name)} with architecture "
            f"{json_of(architecture)}: known are relu, and topk and tanh-relu of standard ones"
        )
    if name == "topk" or architecture == "topk":
        return "topk", setting({**config, **options}, "k", int)
    return name, None


def _as_version_6(config: Mapping[str, Any], k: int | None) -> dict[str, Any]:
    kind = config.get("normalize_activations")
    if isinstance(kind, bool):
        kind = "expected_average_only_in" if kind else "none"
    return {
        **{name: value for name, value in config.items() if name in COMPUTED},
        "architecture": "topk" if k is not None else config.get("architecture") or "standard",
        "k": k,
        "normalize_activations": kind,
    }


def _scaling(config: Mapping[str, Any], tensors: Tensors) -> Tensor | None:
    """What each feature is multiplied by before it is decoded, after a finetuning."""
    found = [tensors.take(name) for name in SCALING_TENSORS if name in tensors]
    is_on = setting(config, "finetuning_scaling_factor", bool, False)
    if not found:
        if is_on:
            raise InputError(
                f"cfg.json says finetuning_scaling_factor true, and {tensors.path} has none; "
                f"{DOWNLOAD}"
            )
        return None
    if len(found) > 1:
        raise InputError(f"{tensors.path} has two scaling factors: remove one")
    (scaling,) = found
    if (scaling == 1).all():
        return None
    if not is_on:
        raise InputError(
            f"{tensors.path} has a scaling factor that is not 1, and cfg.json says "
            f"finetuning_scaling_factor false: whether it counts cannot be told; set it in the one "
            f"or remove it from the other"
        )
    if config.get("rescale_acts_by_decoder_norm"):
        raise InputError(
            "a scaling factor with rescale_acts_by_decoder_norm is refused: whether norms are "
            "those before or after it is not known"
        )
    return scaling


def _facts(config: Mapping[str, Any]) -> Provenance:
    """What is known of model and site. A BOS was prepended where nothing else is said."""
    options = config.get("model_from_pretrained_kwargs")
    said = isinstance(options, dict) and "center_writing_weights" in options
    return facts(
        model_name=name_in(config, "model_name"),
        hook_name=name_in(config, "hook_name") or name_in(config, "hook_point"),
        hook_head_index=config.get("hook_head_index", config.get("hook_point_head_index")),
        dataset_path=config.get("dataset_path"),
        context_size=config.get("context_size"),
        prepend_bos=config.get("prepend_bos", True),
        processing=processing(options) if said else None,
        seqpos_slice=config.get("seqpos_slice"),
        neuronpedia_id=config.get("neuronpedia_id"),
        sae_lens_training_version=config.get("sae_lens_training_version"),
    )
