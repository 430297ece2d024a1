"""OpenMOSS: Llama Scope (`hyperparams.json`), and what its authors published later (`config.json`).

Both train on activations brought to a mean norm of sqrt(d_model), each site by its own factor s.
Features come in the units that each project itself gives them: Llama Scope folds the factors and
the norms of the decoder rows into the weights when it loads them, so that its features, and the one
threshold of its config, are in the units of the activations; later ones are in normalised units.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from sae.interop.layout import Hints, facts
from sae.interop.layouts.openmoss_config import LATER, LLAMA_SCOPE, UNUSABLE, Settings, config_name
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE
from sae.interop.sources import DOWNLOAD, Source, Tensors, json_of

NAME = "openmoss"

WEIGHTS = tuple(
    f"{name}.{suffix}"
    for name in ("sae_weights", "checkpoints/pruned", "checkpoints/final")
    for suffix in ("safetensors", "pt")
)
"""Where weights may lie; the first that is there counts."""

THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")


def recognises(source: Source) -> bool:
    if not any(name in source.names for name in (LLAMA_SCOPE, LATER, *WEIGHTS)):
        return False
    config = source.config(config_name(source)) if source.has(config_name(source)) else {}
    return {"d_model", "hook_point_in"} <= config.keys() or config.get("sae_type") in tuple(
        UNUSABLE
    )


def read(source: Source, hints: Hints) -> PretrainedSAE:
    settings = Settings(source)
    tensors = _weights(source)
    given = _given(settings, tensors)
    scales = settings.scales(tensors, hints)
    tensors.finish()
    of = _llama_scope if settings.name == LLAMA_SCOPE else _later
    cfg, weights = of(settings, given, scales)
    site, site_out = settings.sites
    known = facts(hook_name=site, hook_name_out=None if site == site_out else site_out)
    return PretrainedSAE(cfg, weights, known)


# The weights -------------------------------------------------------------------------------------


def _weights(source: Source) -> Tensors:
    names = (source.path.name,) if source.path.name in WEIGHTS else WEIGHTS
    name = next((name for name in names if source.has(name)), None)
    if name is None:
        raise InputError(
            f"there are no weights at {source.folder}: none of {', '.join(WEIGHTS)}; {DOWNLOAD}"
        )
    if not name.endswith(".pt"):
        return source.tensors(name)
    content = source.content(name)
    state = content.get("sae") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise InputError(f"{source.folder / name} holds no weights under 'sae'; {DOWNLOAD}")
    return Tensors(source.folder / name, state)


def _given(settings: Settings, tensors: Tensors) -> dict[str, Tensor]:
    """What the file holds by the names of `PretrainedSAE`, in the units of the file."""
    if "W_E" in tensors:
        given = {"W_enc": tensors.take("W_E"), "W_dec": tensors.take("W_D")}
        b_enc, b_dec = "b_E", "b_D"
    else:  # as torch stores linear layers, transposed
        given = {
            "W_enc": tensors.matrix("encoder.weight").T,
            "W_dec": tensors.matrix("decoder.weight").T,
        }
        b_enc, b_dec = "encoder.bias", "decoder.bias"
    given["b_enc"] = tensors.take(b_enc)
    has_bias = settings.said("use_decoder_bias", bool, True)
    given["b_dec"] = tensors.take(b_dec) if has_bias else torch.zeros(given["W_dec"].shape[1:])
    if settings.name == LATER and settings.said("act_fn", str).lower() == "jumprelu":
        name = next((name for name in THRESHOLDS if name in tensors), THRESHOLDS[0])
        given["threshold"] = tensors.take(name).to(torch.float32).exp()
    expected = {
        **{
            "W_enc": (settings.d_model, settings.d_sae),
            "W_dec": (settings.d_sae, settings.d_model),
        },
        **{"b_enc": (settings.d_sae,), "b_dec": (settings.d_model,)},
        "threshold": (settings.d_sae,),
    }
    for name, tensor in given.items():
        if tuple(tensor.shape) != expected[name]:
            raise InputError(
                f"{tensors.path} does not fit {settings.path}: {name} is of shape "
                f"{tuple(tensor.shape)}, expected {expected[name]}; {DOWNLOAD}"
            )
    return {name: tensor.to(torch.float32) for name, tensor in given.items()}


Loaded = tuple[PretrainedConfig, dict[str, Tensor]]


def _llama_scope(settings: Settings, of: dict[str, Tensor], scales: tuple[float, float]) -> Loaded:
    """Fold first the factors, then the norms that decoder rows have by then."""
    s_in, s_out = scales
    W_enc, b_enc = of["W_enc"], of["b_enc"] / s_in
    W_dec, b_dec = of["W_dec"] * (s_in / s_out), of["b_dec"] / s_out
    if settings.said("sparsity_include_decoder_norm", bool, True):
        norms = torch.linalg.vector_norm(W_dec, dim=1)
        W_dec = W_dec / norms.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        W_enc, b_enc = W_enc * norms, b_enc * norms
    weights = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
    activation = settings.said("act_fn", str).lower()
    threshold = settings.said("jump_relu_threshold", float, 0.0)
    if activation == "topk" and threshold > 0:  # its program announces the one, and does the other
        raise InputError(
            f"{settings.path} has act_fn topk and jump_relu_threshold {threshold}, and is used "
            f"with either: set act_fn to jumprelu, or the threshold to 0"
        )
    if activation not in ("relu", "topk", "jumprelu") or threshold < 0:
        raise _unknown_activation(settings, activation, threshold)
    if activation == "jumprelu":
        weights["threshold"] = torch.full_like(b_enc, threshold)
    has_bias = settings.said("use_decoder_bias", bool, True)
    cfg = PretrainedConfig(
        d_sae=settings.d_sae,
        activation=activation,
        k=settings.said("top_k", int) if activation == "topk" else None,
        subtracts_b_dec=has_bias and settings.said("apply_decoder_bias_to_pre_encoder", bool, True),
        normalization=settings.normalization(),
    )
    return cfg, weights


def _later(settings: Settings, of: dict[str, Tensor], scales: tuple[float, float]) -> Loaded:
    """Fold the factors so that features stay those of normalised inputs.

    Whether a feature is active is decided on h times the norm of its decoder row, if on anything
    but h; its value is h all the same.
    """
    s_in, s_out = scales
    b_enc = of["b_enc"]
    if settings.said("apply_decoder_bias_to_pre_encoder", bool, False):
        b_enc = b_enc - of["b_dec"] @ of["W_enc"]  # in the units of an output, whatever s_in is
    weights = {"W_enc": of["W_enc"] * s_in, "W_dec": of["W_dec"] / s_out, "b_enc": b_enc}
    weights["b_dec"] = of["b_dec"] / s_out
    by_norm = settings.said("sparsity_include_decoder_norm", bool)
    activation = settings.said("act_fn", str).lower()
    if activation not in ("relu", "topk", "jumprelu"):
        raise _unknown_activation(settings, activation, 0.0)
    if activation == "jumprelu":
        norms = torch.linalg.vector_norm(of["W_dec"], dim=1) if by_norm else torch.ones(())
        weights["threshold"] = of["threshold"] / norms
    cfg = PretrainedConfig(
        d_sae=settings.d_sae,
        activation=activation,
        k=settings.said("top_k", int) if activation == "topk" else None,
        selects_by_decoder_norm=by_norm and activation == "topk",
        subtracts_b_dec=False,
        normalization=settings.normalization(),
    )
    return cfg, weights


def _unknown_activation(settings: Settings, activation: str, threshold: float) -> InputError:
    if threshold < 0:
        return InputError(
            f"{settings.path} has jump_relu_threshold {threshold}: features that are negative "
            f"cannot be loaded"
        )
    reason = "what it does is not known"
    if activation == "batchtopk":
        reason = (
            "the features of a token depend on the other tokens of its batch, and the file has no "
            "threshold to use instead; convert it to jumprelu with the program that trained it"
        )
    return InputError(
        f"{settings.path} has act_fn {json_of(activation)}, which cannot be loaded: {reason}"
    )
