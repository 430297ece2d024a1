"""The configs of OpenMOSS' dictionaries: what they say, and which cannot be loaded."""

from activation_cache.common.errors import InputError
from sae.interop.layout import Hints, positive
from sae.interop.pretrained import Normalization
from sae.interop.sources import Config, Source, Tensors, keys

LLAMA_SCOPE, LATER = "hyperparams.json", "config.json"

AVERAGE_NORM = "dataset_average_activation_norm"

UNUSABLE = {
    "lorsa": "it encodes by attention over the sequence, and a dictionary here sees one token",
    "clt": "a cross-layer transcoder reads one layer and writes many, and a dictionary here one",
    "crosscoder": "it reads and writes several sites at once, and a dictionary here one",
    "molt": "its features are matrices, and those of a dictionary here are vectors",
    "mixcoder": "it has an encoder for each of several modalities, and a dictionary here one",
}
"""Kinds of the same project that are no dictionary of one site, and why."""

USED = keys(
    "sae_type hook_point_in hook_point_out d_model d_sae expansion_factor act_fn top_k",
    "jump_relu_threshold norm_activation dataset_average_activation_norm",
    "sparsity_include_decoder_norm use_decoder_bias apply_decoder_bias_to_pre_encoder",
    "use_glu_encoder",
)
HARMLESS = keys(
    "device dtype seed sae_pretrained_name_or_path strict_loading exp_name exp_series",
    "exp_result_path exp_result_dir tp_size ddp_size use_ddp bias_init_method init_decoder_norm",
    "init_encoder_norm init_search initial_k init_encoder_with_decoder_transpose k_warmup_steps",
    "lp l1_coefficient l1_coefficient_warmup_steps use_batch_norm_mse use_ghost_grads",
    "decoder_exactly_fixed_norm force_unit_decoder_norm promote_act_fn_dtype circuit_tracing_mode",
    "jumprelu_threshold_grad_scale jumprelu_threshold_window use_triton_kernel",
    "sparsity_threshold_for_triton_spmm_kernel sparsity_threshold_for_csr",
)
"""Settings of training and of how it is computed, not of what."""

ACTIVATIONS = ("relu", "topk", "jumprelu")

NORMALIZATIONS: dict[str, Normalization] = {
    **{"none": "none", "inference": "none", "dataset-wise": "none"},
    "token-wise": "constant_norm",
}
"""What is done to each token. What is the same for all tokens is in `scales`."""

REASONS = {
    "batchtopk": "the features of a token depend on the others of its batch, and the file has no "
    "threshold to use instead; convert it to jumprelu with the program that trained it",
    "batch-wise": "features would depend on the other tokens of a batch",
}
"""Why other activations and normalizations cannot be had."""


def config_name(source: Source) -> str:
    return LLAMA_SCOPE if source.has(LLAMA_SCOPE) else LATER


def config_of(source: Source) -> Config:
    """A config of either name, of which every key is understood."""
    config = source.config(config_name(source))
    config.one_of("sae_type", ("sae",), "sae", UNUSABLE)
    config.refuse_unknown(USED | HARMLESS)
    if config.said("use_glu_encoder", bool, False):
        raise InputError(f"{config.file} says use_glu_encoder: products of encoders are not read")
    config["act_fn"] = config.said("act_fn", str).lower()
    return config


def sites(config: Config) -> tuple[str, str]:
    """Where activations come from, and what is reconstructed."""
    site = config.said("hook_point_in", str)
    return site, config.said("hook_point_out", str, site)


def normalization(config: Config) -> Normalization:
    kind = config.one_of("norm_activation", NORMALIZATIONS, reasons=REASONS)
    site, site_out = sites(config)
    if kind == "token-wise" and site != site_out:
        raise InputError(
            f"{config.file} says norm_activation token-wise, which cannot be loaded: a transcoder "
            f"would have to know the norm of what it predicts"
        )
    return NORMALIZATIONS[kind]


def scales(config: Config, tensors: Tensors, hints: Hints) -> tuple[float, float]:
    """What inputs and outputs are multiplied by, the same for all tokens."""
    site, site_out = sites(config)
    found, hint = (1.0, 1.0), hints.norm_scaling_factor
    # norms are in files of all kinds, but often from memory that nobody filled
    stored = {name: tensors.value(f"{AVERAGE_NORM}.{name}") for name in {site, site_out}}
    if config["norm_activation"] == "dataset-wise":
        said = config.said(AVERAGE_NORM, dict, {})
        norms = (said.get("in", stored[site]), said.get("out", stored[site_out]))
        if norms[0] is None:
            if hint is None or site != site_out:
                raise InputError(
                    f"{config.file} has no {AVERAGE_NORM}, by which activations were scaled: give "
                    f"norm_scaling_factor, sqrt(d_model) over the mean norm at the site (of a "
                    f"transcoder both factors are needed, so it cannot be loaded)"
                )
            return hint, hint
        s_in, s_out = (
            config.said("d_model", int) ** 0.5 / positive(norm, "the mean norm of activations")
            for norm in norms
        )
        found = s_in, s_out
    if hint is not None:
        raise InputError(
            f"norm_scaling_factor {hint} was given, and {config.file} says itself what activations "
            f"are scaled by: leave it out"
        )
    return found
