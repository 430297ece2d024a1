"""SAELens, versions 3 to 5: a flat `cfg.json`, and `sae_weights.safetensors`."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.schema import shown
from sae.interop.layout import Hints, facts, harmless_keys, processing
from sae.interop.layouts.native import CONFIG_FILE, WEIGHTS_FILE
from sae.interop.layouts.saelens import assemble, holds_files
from sae.interop.layouts.saelens_keys import COMPUTED
from sae.interop.pretrained import PretrainedSAE
from sae.interop.sources import Config, Source, Tensors, keys
from sae.provenance import Provenance

NAME = "saelens-legacy"

OWN_KEYS = keys("activation_fn activation_fn_str activation_fn_kwargs finetuning_scaling_factor")
"""Keys of these versions that decide what is computed, beside those of version 6."""

SCALING_TENSORS = ("scaling_factor", "finetuning_scaling_factor")


def recognises(source: Source) -> bool:
    if not holds_files(source):
        return False
    config = source.config(CONFIG_FILE)
    return "d_in" in config and "d_sae" in config and not isinstance(config.get("metadata"), dict)


def read(source: Source, hints: Hints) -> PretrainedSAE:
    config = source.config(CONFIG_FILE)
    config.refuse_unknown(COMPUTED | OWN_KEYS | harmless_keys("saelens"))
    activation, k = _activation(config)
    tensors = source.tensors(WEIGHTS_FILE)
    scaling = _scaling(config, tensors)
    sae = assemble(_as_version_6(config, k), tensors, _facts(config), hints.norm_scaling_factor)
    if activation == "tanh-relu":
        sae.cfg = replace(sae.cfg, activation="tanh_relu")
    if scaling is not None:
        sae.W_dec.data = sae.W_dec * scaling[:, None].to(sae.dtype)
    return sae


def _activation(config: Config) -> tuple[str, int | None]:
    """The function of the pre-activations, and its k where it has one."""
    older = config.value("activation_fn", str, "relu")
    name = config.value("activation_fn_str", str, older)
    if config.value("activation_fn", str, name) != name:
        raise InputError(
            f"cfg.json has activation_fn {shown(older)} and activation_fn_str {shown(name)}: "
            f"remove the one that is wrong"
        )
    options = Config("activation_fn_kwargs", config.value("activation_fn_kwargs", dict, {}))
    options.refuse_unknown({"k"})
    architecture = config.value("architecture", str, "standard")
    fits = {"relu": True, "topk": architecture in ("standard", "topk")}
    if not fits.get(name, name == "tanh-relu" and architecture == "standard"):
        raise InputError(
            f"cfg.json has activation_fn {shown(name)} with architecture {shown(architecture)}: "
            f"known are relu, and topk and tanh-relu of standard ones"
        )
    if "topk" in (name, architecture):
        return "topk", options.value("k", int) if "k" in options else config.value("k", int)
    return name, None


def _as_version_6(config: Config, k: int | None) -> Config:
    kind = config.get("normalize_activations")
    if isinstance(kind, bool):
        kind = "expected_average_only_in" if kind else "none"
    content: dict[str, Any] = {
        **{name: value for name, value in config.items() if name in COMPUTED},
        "architecture": "topk" if k is not None else config.get("architecture") or "standard",
        "k": k,
        "normalize_activations": kind,
    }
    return Config(config.file, content)


def _scaling(config: Config, tensors: Tensors) -> Tensor | None:
    """What each feature is multiplied by before it is decoded, after a finetuning."""
    d_sae = config.value("d_sae", int)
    found = [tensors.take(name, d_sae) for name in SCALING_TENSORS if name in tensors]
    is_on = config.value("finetuning_scaling_factor", bool, False)
    counts = any((scaling != 1).any() for scaling in found)
    if len(found) > 1 or (is_on and not found) or (counts and not is_on):
        raise InputError(
            f"cfg.json has finetuning_scaling_factor {shown(is_on)}, and {tensors.path} has "
            f"{len(found)} scaling factors, of 1 or not: remove what does not count"
        )
    if not counts:
        return None
    if config.get("rescale_acts_by_decoder_norm"):
        raise InputError(
            "a scaling factor with rescale_acts_by_decoder_norm is refused: whether norms are "
            "those before or after it is not known"
        )
    return found[0]


def _facts(config: Config) -> Provenance:
    """What is known of model and site. A BOS was prepended where nothing else is given."""
    options = config.get("model_from_pretrained_kwargs")
    is_known = isinstance(options, dict) and "center_writing_weights" in options
    return facts(
        model_name=config.name("model_name"),
        hook_name=config.name("hook_name") or config.name("hook_point"),
        hook_head_index=config.get("hook_head_index", config.get("hook_point_head_index")),
        dataset_path=config.get("dataset_path"),
        context_size=config.get("context_size"),
        prepend_bos=config.get("prepend_bos", True),
        processing=processing(options) if is_known else None,
        seqpos_slice=config.get("seqpos_slice"),
        neuronpedia_id=config.get("neuronpedia_id"),
        sae_lens_training_version=config.get("sae_lens_training_version"),
    )
