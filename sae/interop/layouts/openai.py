"""OpenAI's sparse_autoencoder for GPT-2 small: the state dict of an autoencoder in `N.pt`.

Weights of version 1 and 4 are of ReLU dictionaries. Those of version 5 are of TopK dictionaries,
and TopK means that each token is layer-normed first, which the file records nowhere else.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from activation_cache.common.errors import InputError
from activation_cache.common.schema import shown
from sae.interop import layout as layouts
from sae.interop.layout import Hints
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE
from sae.interop.sources import AGAIN, Config, Source, Tensors
from sae.provenance import Provenance

NAME = "openai"

WEIGHTS = {"W_enc": "encoder.weight", "b_enc": "latent_bias", "b_dec": "pre_bias"}
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
    return isinstance(content, Mapping) and set(WEIGHTS.values()) <= set(content)


def read(source: Source, hints: Hints) -> PretrainedSAE:
    name = source.only(".pt") or ""
    file = source.tensors(name)
    tied = "decoder.linear.weight" in file
    names = WEIGHTS if tied else WEIGHTS | {"W_dec": "decoder.weight"}
    tensors = file.named(names)
    if tied:
        tensors["W_dec"] = tensors.pop("W_enc").T
        if not torch.equal(file.take("decoder.linear.weight", None, None), tensors["W_dec"]):
            raise InputError(
                f"{file.path} has a tied decoder whose weights are not the encoder's; {AGAIN}"
            )
    cfg = _config(file, d_sae=tensors["W_dec"].shape[0], tied=tied)
    file.finish(*STATISTICS)
    return PretrainedSAE(cfg, tensors, _facts(file.path))


def _config(file: Tensors, *, d_sae: int, tied: bool) -> PretrainedConfig:
    """The class of the activation, and the state it is made of."""
    name = file.value("activation", default="ReLU")
    stray = {key: file.value(f"activation.{key}") for key in ("k", "postact_fn")}
    state = Config(file.path.name, stray | file.value("activation_state_dict", dict, {}))
    if name == "ReLU":
        return PretrainedConfig(d_sae=d_sae, tied=tied, activation="relu")
    if name != "TopK":
        raise InputError(f"{file.path} has activation {shown(name)}: known are ReLU, TopK")
    return PretrainedConfig(
        d_sae=d_sae,
        tied=tied,
        activation="topk",
        k=state.value("k", int),
        keeps_negative=state.one_of("postact_fn", ("ReLU", "Identity")) == "Identity",
        normalization="layer_norm",
    )


def _facts(path: Path) -> Provenance:
    """What is known of a file that lies where it was published; the file itself records nothing."""
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
