"""HoagyC's sparse_coding (Cunningham et al.): pickled dictionaries of a sweep, `learned_dicts.pt`.

Nothing of the pickle is run: objects come as their attributes (`restricted_pickle`). The original's
`encode` takes activations that are centred already, and `predict` centres them itself; features
here are those of `predict`. Whatever rotation, translation and scale a dictionary centres with is
folded into its weights, exactly, and so are the means of `means.pt`, which the sweep subtracted
from the activations: it lies beside, or beside the folder `_N` as the sweep leaves it.

A ReverseSAE decodes as in its training. (The original's own `decode` sums over the wrong index, and
fails unless there are as many features as dimensions.)
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.schema import shown
from sae.interop import layout as layouts
from sae.interop.layout import Hints
from sae.interop.pretrained import PretrainedConfig, PretrainedSAE
from sae.interop.restricted_pickle import Shell
from sae.interop.sources import Source, Tensors, read_tensors
from sae.provenance import Provenance

NAME = "sparse-coding"

CLASSES = tuple(f"autoencoders.learned_dict.{name}SAE" for name in ("Tied", "Untied", "Reverse"))

FILE, MEANS, SETTINGS = "learned_dicts.pt", "means.pt", "config.yaml"

MOST_SETTINGS = 2**16
"""Bytes of config.yaml that are read."""

SITES = {
    "residual": "hook_resid_post",
    "mlp": "mlp.hook_post",
    "mlpout": "hook_mlp_out",
    "attn_concat": "attn.hook_z",
}
"""TransformerLens' names of `layer_loc`; "attn" is left out, under which the original harvested
the residual stream."""


def recognises(source: Source) -> bool:
    name = _name(source)
    return name is not None and bool(_members(source.content(name, CLASSES)))


def read(source: Source, hints: Hints) -> PretrainedSAE:
    name = _name(source) or ""
    members = _members(source.content(name, CLASSES))
    shell = _chosen(source, members, hints.index)
    file = Tensors(source.folder / name, shell)
    kind = type(shell).__name__
    encoder, b_enc = file.take("encoder", None, None).double(), file.take("encoder_bias", None)
    rows = decoder = _unit(encoder)
    if kind == "UntiedSAE":
        rows, decoder = encoder, _unit(file.take("decoder", *encoder.shape).double())
    elif not file.value("norm_encoder", bool):
        rows = encoder
        decoder = rows if kind == "ReverseSAE" else decoder
    rows, decoder, b_dec = _centred(file, rows, decoder)
    file.finish("n_feats", "activation_size", "device")
    tied = torch.equal(rows, decoder)
    tensors = {"W_dec": decoder, "b_enc": b_enc, "b_dec": b_dec + _means(source, b_dec)}
    if not tied:
        tensors["W_enc"] = rows.T
    cfg = PretrainedConfig(
        d_sae=len(rows), activation="relu", tied=tied, reverses_bias=kind == "ReverseSAE"
    )
    return PretrainedSAE(cfg, tensors, _facts(source))


def _name(source: Source) -> str | None:
    return FILE if FILE in source.names else source.only(".pt")


# Which one of a file -----------------------------------------------------------------------------


def _members(content: Any) -> list[tuple[Shell, Mapping[str, Any]]]:
    """The dictionaries in a file, each with the settings it was trained with."""
    members = content if isinstance(content, list) else []
    fits = all(isinstance(of, tuple) and len(of) == 2 for of in members) and all(
        isinstance(shell, Shell) and isinstance(settings, dict) for shell, settings in members
    )
    return members if fits else []


def _chosen(
    source: Source, members: list[tuple[Shell, Mapping[str, Any]]], index: int | None
) -> Shell:
    if index is None and len(members) == 1:
        return members[0][0]
    if index is None or not 0 <= index < len(members):
        asked = "" if index is None else f" and none of index {index}"
        listed = "; ".join(
            f"{at}: {type(shell).__name__}, l1_alpha {shown(its.get('l1_alpha'))}, dict_size "
            f"{shown(its.get('dict_size'))}"
            for at, (shell, its) in enumerate(members)
        )
        raise InputError(
            f"{source.path} holds {len(members)} dictionaries{asked}, choose one by its index: "
            f"{listed[:600]}"
        )
    return members[index][0]


# What it computes --------------------------------------------------------------------------------


def _unit(rows: Tensor) -> Tensor:
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-8)


def _centred(file: Tensors, rows: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder and decoder of activations that are not centred yet, and their centre.

    With centred activations s R (x - t), features are of E s R (x - t), and what they rebuild is
    t + the sum of D / s R. Pickles of before 2023-09 have no centre.
    """
    d_in = rows.shape[1]
    b_dec = rows.new_zeros(d_in)
    if "center_trans" in file:
        b_dec = file.take("center_trans", d_in).double()
    if "center_scale" in file:
        scale = file.take("center_scale", d_in).double()
        if (scale == 0).any():
            raise InputError(f"center_scale in {file.path} holds 0: it cannot be undone")
        rows, decoder = rows * scale, decoder / scale
    if "center_rot" in file:
        rotation = file.take("center_rot", d_in, d_in).double()
        if not torch.equal(rotation, torch.eye(d_in, dtype=rotation.dtype)):
            rows, decoder = rows @ rotation, decoder @ rotation
    return rows, decoder, b_dec


def _means(source: Source, b_dec: Tensor) -> Tensor:
    """What the sweep subtracted from the activations, where it did."""
    folders = [source.folder]
    if re.fullmatch(r"_\d+", source.folder.absolute().name):
        folders.append(source.folder.absolute().parent)
    path = next((folder / MEANS for folder in folders if (folder / MEANS).is_file()), None)
    if path is None:
        if _settings(source).get("center_activations") == "true":
            raise InputError(
                f"{source.path} is for centred activations, and {MEANS}, with their means, is "
                f"missing: put it beside"
            )
        return torch.zeros_like(b_dec)
    return Tensors(path, {MEANS: read_tensors(path)}).take(MEANS, len(b_dec)).double()


def _facts(source: Source) -> Provenance:
    settings = _settings(source)
    layer, site = settings.get("layer", ""), SITES.get(settings.get("layer_loc", ""))
    return layouts.facts(
        model_name=settings.get("model_name"),
        hook_name=f"blocks.{layer}.{site}" if layer.isdigit() and site else None,
        dataset_path=settings.get("dataset_name"),
    )


def _settings(source: Source) -> dict[str, str]:
    """The plain lines of config.yaml; others name Python objects, which nobody should build."""
    if not source.has(SETTINGS):
        return {}
    with (source.folder / SETTINGS).open("rb") as file:
        lines = file.read(MOST_SETTINGS).decode(errors="replace").splitlines()
    parts = (line.partition(": ") for line in lines)
    return {key: value.strip(" '\"") for key, _, value in parts if value.strip(" '\"")}
