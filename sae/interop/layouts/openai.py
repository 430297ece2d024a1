"""OpenAI's sparse_autoencoder for GPT-2 small: the state dict of an autoencoder in `N.pt`.

Weights of version 1 and 4 are of ReLU dictionaries. Those of version 5 are of TopK dictionaries,
and TopK means that each token is layer-normed first: nothing else in the file says so.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from activation_cache.common.errors import InputError
from sae.interop import layout as layouts
from sae.interop.layout import Hints
from sae.interop.pretrained import Activation, Normalization, PretrainedConfig, PretrainedSAE
from sae.interop.sources import DOWNLOAD, Source, Tensors, json_of
from sae.provenance import Provenance

NAME = "openai"

WEIGHTS = ("pre_bias", "latent_bias", "encoder.weight")
"""What every state dict has, tied or not."""

STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")

SITES = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_post_mlp": "hook_resid_post",
}
"""TransformerLens' names of the places that published files lie under."""

PUBLISHED = re.compile(rf"/({'|'.join(SITES)})(?:_v\w+)?/autoencoders/(\d+)\.pt$")


def recognises(source: Source) -> bool:
    name = source.only(".pt")
    if name is None:
        return False
    content = source.content(name)
    return isinstance(content, Mapping) and all(weight in content for weight in WEIGHTS)


def read(source: Source, hints: Hints) -> PretrainedSAE:
    name = source.only(".pt") or ""
    file = source.tensors(name)
    cfg_of = _activation(file)
    encoder = file.matrix("encoder.weight")
    tensors = {"b_enc": file.take("latent_bias"), "b_dec": file.take("pre_bias")}
    tied = "decoder.linear.weight" in file
    if tied:
        if not torch.equal(file.take("decoder.linear.weight"), encoder):
            raise InputError(
                f"{file.path} has a tied decoder whose weights are not the encoder's; {DOWNLOAD}"
            )
        tensors["W_dec"] = encoder
    else:
        tensors |= {"W_enc": encoder.T, "W_dec": file.matrix("decoder.weight").T}
    file.leave(*STATISTICS)
    file.finish()
    cfg = PretrainedConfig(d_sae=encoder.shape[0], tied=tied, **cfg_of)
    return PretrainedSAE(cfg, tensors, _facts(file.path))


def _activation(file: Tensors) -> dict[str, Any]:
    name = file.value("activation", "ReLU")
    state = file.value("activation_state_dict", {})
    stray = {key: file.value(f"activation.{key}") for key in ("k", "postact_fn")}
    activation: Activation = "relu"
    normalization: Normalization = "none"
    if name == "ReLU":
        return {"activation": activation, "normalization": normalization}
    if name != "TopK":
        raise InputError(
            f"{file.path} has the activation {json_of(name)}, which is not read: known are ReLU "
            f"and TopK"
        )
    said = {**stray, **state} if isinstance(state, Mapping) else stray
    k, after = said["k"], said["postact_fn"]
    if type(k) is not int:
        raise InputError(f"{file.path} has {json_of(k)} for k, which is no number; {DOWNLOAD}")
    if after not in ("ReLU", "Identity"):
        raise InputError(
            f"{file.path} has {json_of(after)} after TopK, which is not read: known are ReLU and "
            f"Identity"
        )
    if any(value not in (None, said[key]) for key, value in stray.items()):
        raise InputError(f"{file.path} says two things of its activation; {DOWNLOAD}")
    activation, normalization = "topk", "layer_norm"
    return {
        "activation": activation,
        "k": k,
        "keeps_negative": after == "Identity",
        "normalization": normalization,
    }


def _facts(path: Path) -> Provenance:
    """What is known of a file that lies where it was published; the file itself says nothing."""
    place = PUBLISHED.search(path.absolute().as_posix())
    if place is None:
        return Provenance()
    location, layer = place.groups()
    return layouts.facts(
        model_name="gpt2",
        hook_name=f"blocks.{layer}.{SITES[location]}",
        context_size=64,
        processing="raw",
    )
