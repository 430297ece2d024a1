"""Gemma Scope and Gemma Scope 2: `params.npz`, or `params.safetensors` with `config.json`.

JumpReLU dictionaries and transcoders that do not subtract `b_dec` before they encode. The files of
Gemma Scope say nothing of their model and site, so these are known only where the folders are named
as they were published. There, too, is what an embedding dictionary is known by: it was trained on
embeddings before Gemma multiplies them with sqrt(d_in), which `hook_embed` has done, so the factor
is folded, into `b_dec` too (SAELens leaves it as it is, and reconstructs something else).
"""

import re
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError
from sae.interop import layout as layouts
from sae.interop.layout import Hints
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE
from sae.interop.sources import Source, Tensors, keys
from sae.provenance import Provenance

NAME = "gemma-scope"

SPELLINGS = {
    "W_enc": ("w_enc", "wenc", "w_e"),
    "W_dec": ("w_dec", "wdec", "w_d"),
    "b_enc": ("b_enc", "benc", "b_e"),
    "b_dec": ("b_dec", "bdec", "b_d"),
    "threshold": ("threshold",),
}
"""What .npz files call weights, in upper or lower case."""

RELEASE = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)\b.*")
LAYER = re.compile(r"/layer_(\d+)/")
EMBEDDING = re.compile(r"/embedding/width_[^/]*/[^/]*$")

SITES = {
    "res": ("hook_resid_post", None),
    "mlp": ("hook_mlp_out", None),
    "att": ("attn.hook_z", None),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}
"""Where activations of a release come from and, of transcoders, what is reconstructed."""

MODULES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""TransformerLens' names of what Gemma Scope 2 calls by modules of the layer."""

KEYS = keys(
    "architecture type affine_connection model_name width l0 hf_hook_point_in hf_hook_point_out"
)


def recognises(source: Source) -> bool:
    name = source.only(".npz")
    if name is not None:
        return all(_spelling(source.tensors(name), weight) for weight in SPELLINGS)
    name = source.only(".safetensors")
    return name is not None and all(of[0] in source.tensors(name) for of in SPELLINGS.values())


def read(source: Source, hints: Hints) -> PretrainedSAE:
    name = source.only(".npz") or source.only(".safetensors") or ""
    file = source.tensors(name)
    if file.n_dimensions(_spelling(file, "W_dec") or "") == 3:
        raise InputError(f"{file.path} is a cross-layer transcoder: it is no one dictionary")
    tensors = file.named({weight: _spelling(file, weight) or weight for weight in SPELLINGS})
    if name.endswith(".npz"):
        facts = _published(file.path.parent)
        if facts.hook_name == "hook_embed":
            factor = tensors["W_enc"].shape[0] ** 0.5
            tensors["W_enc"] = tensors["W_enc"] / factor
            tensors |= {weight: tensors[weight] * factor for weight in ("W_dec", "b_dec")}
    else:
        facts = _described(source, has_skip="affine_skip_connection" in file)
        if "affine_skip_connection" in file:
            tensors["W_skip"] = file.take("affine_skip_connection", None, None)
    file.finish()
    cfg = PretrainedConfig(
        d_sae=tensors["W_enc"].shape[1], activation="jumprelu", subtracts_b_dec=False
    )
    return PretrainedSAE(cfg, tensors, facts)


def _spelling(file: Tensors, weight: str) -> str | None:
    return next((name for name in file.names if name.lower() in SPELLINGS[weight]), None)


def _published(folder: Path) -> Provenance:
    """What the names of the folders of Gemma Scope say."""
    release = RELEASE.search(f"{folder.absolute().as_posix()}/")
    if release is None:
        return Provenance()
    size, tuning, kind = release.groups()
    layer = LAYER.search(release[0])
    site, target = SITES[kind]
    hooks: dict[str, str | None] = {}
    if layer is not None:
        hooks["hook_name"] = f"blocks.{layer[1]}.{site}"
        hooks["hook_name_out"] = None if target is None else f"blocks.{layer[1]}.{target}"
    elif EMBEDDING.search(folder.absolute().as_posix()):
        hooks["hook_name"] = "hook_embed"
    return layouts.facts(
        model_name=f"google/gemma-2-{size}" + ("-it" if tuning == "it" else ""),
        dataset_path="monology/pile-uncopyrighted",
        context_size=1024,
        prepend_bos=True,
        processing="raw",
        **hooks,
    )


def _described(source: Source, *, has_skip: bool) -> Provenance:
    """What is in config.json of Gemma Scope 2, where it is there."""
    config = source.config("config.json")
    if not config:
        return Provenance()
    config.refuse_unknown(KEYS)
    config.one_of("architecture", ("jump_relu",))
    config.one_of("type", ("sae", "transcoder"), "sae")
    if config.value("affine_connection", bool, has_skip) != has_skip:
        raise InputError(f"config.json has affine_connection {not has_skip}, the weights do not")
    into, out = (config.get(f"hf_hook_point_{way}") for way in ("in", "out"))
    return layouts.facts(
        model_name=_model_name(config.name("model_name")),
        hook_name=_hook_name(into),
        hook_name_out=None if out == into else _hook_name(out),
        hf_hook_point_in=into,
        hf_hook_point_out=out,
        processing="raw",
    )


def _hook_name(module: Any) -> str | None:
    """TransformerLens' name of a module's input or output, where it is surely the same."""
    found = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.*)", str(module))
    if found is None or found[2] not in MODULES:
        return None
    return f"blocks.{found[1]}.{MODULES[found[2]]}"


def _model_name(name: str | None) -> str | None:
    """The hub id of the model, which files write in several ways."""
    if name is None:
        return None
    name = f"google/{name.removeprefix('google/')}".replace("-v3", "-3")
    return name.replace("-pt", "") if "270m" in name else name
