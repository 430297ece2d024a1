"""OpenMOSS: Llama Scope (`hyperparams.json`), and what its authors published later (`config.json`).

Both train on activations brought to a mean norm of sqrt(d_model), each site by its own factor s.
Features come in the units that each project itself gives them: Llama Scope folds the factors and
the norms of the decoder rows into the weights when it loads them, so that its features, and the one
threshold of its config, are in the units of the activations; later ones are in normalised units.
"""

import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.interop.layout import Hints, facts, harmless_keys, positive
from sae.interop.pretrained import Normalization, PretrainedConfig, PretrainedSAE
from sae.interop.sources import AGAIN, LINEAR, Config, Source, Tensors, keys

NAME = "openmoss"

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
"""Why other activations and normalizations cannot be loaded."""

WEIGHTS = tuple(
    f"{name}.{suffix}"
    for name in ("sae_weights", "checkpoints/pruned", "checkpoints/final")
    for suffix in ("safetensors", "pt")
)
"""Where weights may lie; the first that is there counts."""

NAMES = {"W_enc": "W_E", "W_dec": "W_D", "b_enc": "b_E", "b_dec": "b_D"}
THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")


def recognises(source: Source) -> bool:
    if not any(name in source.names for name in (LLAMA_SCOPE, LATER, *WEIGHTS)):
        return False
    config = source.config(config_name(source))
    return {"d_model", "hook_point_in"} <= config.keys() or config.name("sae_type") in UNUSABLE


def read(source: Source, hints: Hints) -> PretrainedSAE:
    config, tensors = config_of(source), _weights(source)
    is_first = config.file == LLAMA_SCOPE
    activation = config.one_of("act_fn", ("relu", "topk", "jumprelu"), reasons=REASONS)
    by_norm = config.value("sparsity_include_decoder_norm", bool, True if is_first else None)
    has_bias = config.value("use_decoder_bias", bool, True)
    applies = config.value("apply_decoder_bias_to_pre_encoder", bool, is_first)
    given = _given(config, tensors, has_bias=has_bias)
    cfg = PretrainedConfig(
        d_sae=len(given["b_enc"]),
        activation=activation,
        k=config.value("top_k", int) if activation == "topk" else None,
        selects_by_decoder_norm=by_norm and activation == "topk" and not is_first,
        subtracts_b_dec=has_bias and applies and is_first,
        normalization=normalization(config),
    )
    factors = scales(config, tensors, hints)
    tensors.finish()
    if is_first:
        weights = _llama_scope(config, given, factors, by_norm=by_norm)
    else:
        weights = _later(given, factors, by_norm=by_norm, applies=applies)
    site, site_out = sites(config)
    known = facts(hook_name=site, hook_name_out=None if site == site_out else site_out)
    return PretrainedSAE(cfg, weights, known)


# The config --------------------------------------------------------------------------------------


def config_name(source: Source) -> str:
    return LLAMA_SCOPE if source.has(LLAMA_SCOPE) else LATER


def config_of(source: Source) -> Config:
    """A config of either name, of which every key is understood."""
    config = source.config(config_name(source))
    config.one_of("sae_type", ("sae",), "sae", UNUSABLE)
    config.refuse_unknown(USED | harmless_keys(NAME))
    if config.value("use_glu_encoder", bool, False):
        raise InputError(f"{config.file} has use_glu_encoder: products of encoders are not read")
    config["act_fn"] = config.value("act_fn", str).lower()
    return config


def sites(config: Config) -> tuple[str, str]:
    """Where activations come from, and what is reconstructed."""
    site = config.value("hook_point_in", str)
    return site, config.value("hook_point_out", str, site)


def normalization(config: Config) -> Normalization:
    kind = config.one_of("norm_activation", NORMALIZATIONS, reasons=REASONS)
    site, site_out = sites(config)
    if kind == "token-wise" and site != site_out:
        raise InputError(
            f"{config.file} has norm_activation token-wise, which cannot be loaded: a transcoder "
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
        by_side = config.value(AVERAGE_NORM, dict, {})
        norms = (by_side.get("in", stored[site]), by_side.get("out", stored[site_out]))
        if norms[0] is None:
            if hint is None or site != site_out:
                raise InputError(
                    f"{config.file} has no {AVERAGE_NORM}: give norm_scaling_factor, sqrt(d_model) "
                    f"over the mean norm (of a transcoder, both factors are needed: it is refused)"
                )
            return hint, hint
        s_in, s_out = (
            config.value("d_model", int) ** 0.5 / positive(norm, "the mean norm of activations")
            for norm in norms
        )
        found = s_in, s_out
    if hint is not None:
        raise InputError(
            f"norm_scaling_factor {hint} was given, and {config.file} itself has what activations "
            f"are scaled by: leave it out"
        )
    return found


# The weights -------------------------------------------------------------------------------------


def _weights(source: Source) -> Tensors:
    names = (source.path.name,) if source.path.name in WEIGHTS else WEIGHTS
    name = next((name for name in names if source.has(name)), None)
    if name is None:
        raise InputError(
            f"there are no weights at {source.folder}: none of {', '.join(WEIGHTS)}; {AGAIN}"
        )
    if not name.endswith(".pt"):
        return source.tensors(name)
    return Tensors(source.folder / name, source.tensors(name).value("sae", dict))


def _given(config: Config, tensors: Tensors, *, has_bias: bool) -> dict[str, Tensor]:
    """What the file holds by the names of `PretrainedSAE`, in the units of the file."""
    d_model, d_sae = config.value("d_model", int), config.value("d_sae", int | None)
    if d_sae is None:
        d_sae = int(d_model * config.value("expansion_factor", float))
    names = dict(NAMES if "W_E" in tensors else LINEAR)
    if not has_bias:
        del names["b_dec"]
    given = tensors.named(names, d_model, d_sae, d_model)
    if not has_bias:
        given["b_dec"] = torch.zeros(d_model)
    if config.file == LATER and config["act_fn"] == "jumprelu":
        name = next((name for name in THRESHOLDS if name in tensors), THRESHOLDS[0])
        given["threshold"] = tensors.take(name, d_sae).to(torch.float32).exp()
    return {name: tensor.to(torch.float32) for name, tensor in given.items()}


def _llama_scope(
    config: Config, of: dict[str, Tensor], factors: tuple[float, float], *, by_norm: bool
) -> dict[str, Tensor]:
    """Fold first the factors, then the norms that decoder rows have by then."""
    s_in, s_out = factors
    W_enc, b_enc = of["W_enc"], of["b_enc"] / s_in
    W_dec, b_dec = of["W_dec"] * (s_in / s_out), of["b_dec"] / s_out
    if by_norm:
        norms = torch.linalg.vector_norm(W_dec, dim=1)
        W_dec = W_dec / norms.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        W_enc, b_enc = W_enc * norms, b_enc * norms
    weights = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
    threshold = config.value("jump_relu_threshold", float, 0.0)
    # with topk, its program announces the threshold, and does the other
    if threshold < 0 or (threshold > 0 and config["act_fn"] == "topk"):
        raise InputError(
            f"{config.file} has jump_relu_threshold {threshold} with act_fn {config['act_fn']}: "
            f"set act_fn to jumprelu, or the threshold to 0"
        )
    if config["act_fn"] == "jumprelu":
        weights["threshold"] = torch.full_like(b_enc, threshold, dtype=torch.float64)
    return weights


def _later(
    of: dict[str, Tensor], factors: tuple[float, float], *, by_norm: bool, applies: bool
) -> dict[str, Tensor]:
    """Fold the factors so that features stay those of normalised inputs.

    Whether a feature is active is decided on h times the norm of its decoder row, if on anything
    but h; its value is h all the same.
    """
    s_in, s_out = factors
    b_enc = of["b_enc"]
    if applies:
        b_enc = b_enc - of["b_dec"] @ of["W_enc"]  # in the units of an output, whatever s_in is
    weights = {"W_enc": of["W_enc"] * s_in, "W_dec": of["W_dec"] / s_out, "b_enc": b_enc}
    weights["b_dec"] = of["b_dec"] / s_out
    if "threshold" in of:
        norms = torch.linalg.vector_norm(of["W_dec"], dim=1) if by_norm else torch.ones(())
        weights["threshold"] = of["threshold"] / norms
    return weights
