"""The attention dictionaries of Connor Kissane and Rob Krzyzanowski: NAME.pt and NAME_cfg.json.

Weights are as ours. They take the outputs of all heads, one after the other.
"""

from collections.abc import Mapping
from pathlib import PurePath

from activation_cache.common.errors import InputError
from activation_cache.common.schema import shown
from sae.interop import layout as layouts
from sae.interop.layout import Hints
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE
from sae.interop.sources import PLAIN, Source

NAME = "hook-z"

SIZES = ("act_size", "dict_size")


def recognises(source: Source) -> bool:
    name = source.only(".pt")
    if name is None or not source.has(_config_name(name)):
        return False
    config, content = source.config(_config_name(name)), source.content(name)
    is_described = all(key in config for key in (*SIZES, "act_name"))
    return is_described and isinstance(content, Mapping) and set(content) == set(PLAIN)


def read(source: Source, hints: Hints) -> PretrainedSAE:
    name = source.only(".pt") or ""
    config, file = source.config(_config_name(name)), source.tensors(name)
    d_in, d_sae = (config.value(size, int) for size in SIZES)
    tensors = file.named(PLAIN, d_in, d_sae, d_in)
    site = config.value("act_name", str)
    if not site.endswith("hook_z"):
        raise InputError(f"{config.file} has act_name {shown(site)}: known are those of hook_z")
    facts = layouts.facts(
        model_name=config.get("model_name"),
        hook_name=site,
        context_size=config.get("seq_len", 128),
        prepend_bos=True,
        processing="folded_value_biases",  # its trainer loaded models in compatibility mode
    )
    cfg = PretrainedConfig(d_sae=d_sae, activation="relu")
    return PretrainedSAE(cfg, tensors, facts)


def _config_name(name: str) -> str:
    return f"{PurePath(name).stem}_cfg.json"
