"""The attention dictionaries of Connor Kissane and Rob Krzyzanowski: NAME.pt and NAME_cfg.json.

Weights are as ours. They take the outputs of all heads, one after the other.
"""

from collections.abc import Mapping
from pathlib import PurePath

from activation_cache.common.errors import InputError
from sae.interop import layout as layouts
from sae.interop.layout import Hints
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE
from sae.interop.sources import DOWNLOAD, Source, json_of

NAME = "hook-z"

WEIGHTS = ("W_enc", "W_dec", "b_enc", "b_dec")
SIZES = ("act_size", "dict_size")


def recognises(source: Source) -> bool:
    name = source.only(".pt")
    if name is None or not source.has(_config_name(name)):
        return False
    config, content = source.config(_config_name(name)), source.content(name)
    is_described = all(key in config for key in (*SIZES, "act_name"))
    return is_described and isinstance(content, Mapping) and set(content) == set(WEIGHTS)


def read(source: Source, hints: Hints) -> PretrainedSAE:
    name = source.only(".pt") or ""
    config, file = source.config(_config_name(name)), source.tensors(name)
    tensors = {weight: file.take(weight) for weight in ("b_enc", "b_dec")}
    tensors |= {weight: file.matrix(weight) for weight in ("W_enc", "W_dec")}
    sizes = tuple(tensors["W_enc"].shape)
    for size, key in zip(sizes, SIZES, strict=True):
        if config[key] != size:
            raise InputError(
                f"{_config_name(name)} says {key} {json_of(config[key])}, and {file.path} has "
                f"{size}; {DOWNLOAD}"
            )
    site = config["act_name"]
    if not isinstance(site, str) or not site.endswith("hook_z"):
        raise InputError(
            f"{_config_name(name)} says act_name {json_of(site)}: dictionaries of this layout are "
            f"for hook_z"
        )
    facts = layouts.facts(
        model_name=config.get("model_name"),
        hook_name=site,
        context_size=config.get("seq_len", 128),
        prepend_bos=True,
        processing="raw",  # centring changes nothing inside a head
    )
    cfg = PretrainedConfig(d_sae=sizes[1], activation="relu")
    return PretrainedSAE(cfg, tensors, facts)


def _config_name(name: str) -> str:
    return f"{PurePath(name).stem}_cfg.json"
