"""dictionary_learning (saprmarks): the folder of a trainer, with `ae.pt` and `config.json`.

`ae.pt` is a state dict of one of seven classes. A backup, which its training makes on the way, has
the same name and holds more: the state dict is its `ae`, for inputs divided by `norm_factor`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.schema import shown
from sae.architectures.batch_topk import BatchTopK
from sae.architectures.matryoshka import MatryoshkaSAE
from sae.base import SAE
from sae.interop.exporting import (
    as_pretrained,
    biases,
    has_equal_rows,
    refuse_inexpressible,
    write_files,
)
from sae.interop.layout import Hints, facts, positive, processing
from sae.interop.pretrained import Activation, PretrainedConfig, PretrainedSAE
from sae.interop.sources import AGAIN, LINEAR, PLAIN, Source, Tensors
from sae.provenance import Provenance

NAME = "dictionary_learning"
WEIGHTS_FILE = "ae.pt"
CONFIG_FILE = "config.json"

LINEAR_B_DEC = LINEAR | {"b_dec": "b_dec"}
GATED = {"b_enc": "gate_bias", "b_dec": "decoder_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}


@dataclass(frozen=True)
class DictClass:
    """What a class of the package computes, and how it calls what we call otherwise."""

    activation: Activation
    names: Mapping[str, str]
    """Its names of our tensors."""
    needs: tuple[str, ...] = ()
    """What it has beside them."""
    may_have: tuple[str, ...] = ()
    subtracts_b_dec: bool = True


CLASSES: Mapping[str, DictClass] = {
    "AutoEncoder": DictClass("relu", LINEAR | {"b_dec": "bias"}),
    "AutoEncoderNew": DictClass("relu", LINEAR, subtracts_b_dec=False),
    "GatedAutoEncoder": DictClass("gated", LINEAR | GATED),
    "JumpReluAutoEncoder": DictClass(
        "jumprelu", PLAIN | {"threshold": "threshold"}, subtracts_b_dec=False
    ),
    "AutoEncoderTopK": DictClass("topk", LINEAR_B_DEC, may_have=("k", "threshold")),
    "BatchTopKSAE": DictClass("jumprelu", LINEAR_B_DEC, needs=("threshold",), may_have=("k",)),
    "MatryoshkaBatchTopKSAE": DictClass(
        "jumprelu", PLAIN, needs=("threshold", "group_sizes"), may_have=("k",)
    ),
}

# Reading -----------------------------------------------------------------------------------------


def recognises(source: Source) -> bool:
    name = _weights_file(source)
    if name is None:
        return False
    if "dict_class" in _section(_config(source), "trainer"):
        return True
    content = source.content(name)
    return isinstance(content, Mapping) and ("ae" in content or bool(fitting(content)))


def read(source: Source, hints: Hints) -> PretrainedSAE:
    """The features are those of the file. `AutoEncoder.from_pretrained` there scales each by the
    norm of its decoder row unless asked otherwise; the reconstruction is the same."""
    config, norm_factor = _config(source), 1.0
    state = source.tensors(_weights_file(source) or WEIGHTS_FILE)
    trainer = _section(config, "trainer")
    if "ae" in state:
        backup, state = state, Tensors(state.path, state.value("ae", dict))
        trainer = trainer or backup.value("config", dict, {})
        norm_factor = _norm_factor(backup)
        backup.finish("step", "optimizer", "config")
    of = CLASSES[_class_of(trainer.get("dict_class"), state)]
    tensors, k = _tensors(of, state, trainer)
    for name in {"b_enc", "b_dec", "b_mag", "threshold"} & set(tensors):
        tensors[name] = tensors[name].to(torch.float32) * norm_factor
    cfg = PretrainedConfig(
        d_sae=tensors["b_enc"].numel(),
        activation=of.activation,
        k=k,
        subtracts_b_dec=of.subtracts_b_dec,
    )
    return PretrainedSAE(cfg, tensors, _provenance({**config, "trainer": trainer}))


def _weights_file(source: Source) -> str | None:
    """`ae.pt` of a folder, or whatever .pt file was named: checkpoints have a step in the name."""
    name = source.path.name if source.path.is_file() else WEIGHTS_FILE
    return name if name.endswith(".pt") and source.has(name) else None


def _config(source: Source) -> dict[str, Any]:
    """The trainer's config: beside its weights, or above the folder of its checkpoints."""
    above = source.folder.resolve().name == "checkpoints"
    return source.config(f"../{CONFIG_FILE}" if above else CONFIG_FILE)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    content = config.get(name)
    return content if isinstance(content, Mapping) else {}


def fitting(names: Collection[str]) -> list[str]:
    """The classes that have just these tensors."""
    found: list[str] = []
    for dict_class, of in CLASSES.items():
        needed = {*of.names.values(), *of.needs}
        if needed <= set(names) <= needed.union(of.may_have):
            found.append(dict_class)
    return found


def _norm_factor(backup: Tensors) -> float:
    """What activations were divided by in training; None where they were not."""
    if "norm_factor" not in backup:
        raise InputError(
            f"{backup.path} is a backup without norm_factor, by which activations were divided: "
            f"take the ae.pt of the finished training"
        )
    factor = backup.value("norm_factor")
    return 1.0 if factor is None else positive(factor, f"norm_factor in {backup.path}")


def _class_of(claimed: Any, state: Tensors) -> str:
    path, found = state.path, fitting(state.names)
    if claimed is None:
        if len(found) == 1:
            return found[0]
        what = f"may be of {' or '.join(found)}" if found else "is of no known class"
        raise InputError(f"{path} {what}: put the {CONFIG_FILE} of its trainer beside it")
    if claimed == "AutoEncoder" and found == ["AutoEncoderNew"]:
        return "AutoEncoderNew"  # trainers write the name of their default class, whatever they use
    if not isinstance(claimed, str) or claimed not in CLASSES:
        known = ", ".join(CLASSES)
        raise InputError(f"{path} is of dict_class {shown(claimed)}: known are {known}")
    return claimed


def _tensors(
    of: DictClass, state: Tensors, trainer: Mapping[str, Any]
) -> tuple[dict[str, Tensor], int | None]:
    """Its tensors by our names and in our order, and `k`."""
    tensors, k = state.named(of.names), None
    if "threshold" in of.needs:  # below 0 where training has set none, which keeps all above 0
        threshold = state.value("threshold", float)
        tensors["threshold"] = torch.full(tensors["b_enc"].shape, threshold, dtype=torch.float64)
    if of.activation == "topk":
        k = state.value("k", int, trainer.get("k"))
        if trainer.get("k", k) != k:
            raise InputError(
                f"{state.path} has k {k}, and {CONFIG_FILE} {shown(trainer['k'])}: they must "
                f"agree; {AGAIN}"
            )
    state.finish(*of.needs, *of.may_have)  # encoding takes k, and all groups, by default
    return tensors, k


def _provenance(config: Mapping[str, Any]) -> Provenance:
    """What is in the config. `layer` alone is no site, and nothing is known of BOS."""
    trainer, buffer = _section(config, "trainer"), _section(config, "buffer")
    known = facts(
        model_name=trainer.get("lm_name"),
        hook_name=_hook_name(trainer, buffer),
        context_size=buffer.get("ctx_len"),
        processing=processing(None) if trainer.get("lm_name") else None,
        layer=trainer.get("layer"),
        submodule_name=trainer.get("submodule_name"),
        io=buffer.get("io"),
    )
    return known.updated(_section(config, "metadata"))


def _hook_name(trainer: Mapping[str, Any], buffer: Mapping[str, Any]) -> str | None:
    """The site, where the name of the submodule gives it and its output was taken."""
    found = re.fullmatch(r"resid_post_layer_(\d+)", str(trainer.get("submodule_name")))
    if found is None or buffer.get("io", "out") != "out":
        return None
    return f"blocks.{int(found[1])}.hook_resid_post"


# Writing -----------------------------------------------------------------------------------------


def write(sae: SAE, folder: Path) -> None:
    """Write the folder of a trainer, which `load_dictionary` there reads, in float32.

    `metadata` in the config is ours: there, nobody looks at it.
    """
    given = as_pretrained(sae)
    refuse_inexpressible(given, NAME, ("relu", "jumprelu", "topk", "gated"))
    dict_class = _class_for(sae, given)
    of = CLASSES[dict_class]
    folded = biases(given, subtracts_b_dec=of.subtracts_b_dec)
    state: dict[str, Tensor] = {}
    for ours, theirs in of.names.items():
        tensor: Tensor = folded[ours] if ours in folded else getattr(given, ours)
        state[theirs] = tensor.T if theirs.endswith(".weight") else tensor
    numbers = _numbers(sae, given)
    config = _written_config(sae, dict_class, numbers)
    write_files(folder, WEIGHTS_FILE, state | numbers, CONFIG_FILE, config)


def _class_for(sae: SAE, given: PretrainedSAE) -> str:
    if isinstance(sae, BatchTopK):
        return "MatryoshkaBatchTopKSAE" if isinstance(sae, MatryoshkaSAE) else "BatchTopKSAE"
    if given.cfg.activation == "relu":  # loading an AutoEncoder brings its decoder to unit norm
        is_unit = has_equal_rows(given.W_dec, 1.0)
        return "AutoEncoder" if is_unit and given.cfg.subtracts_b_dec else "AutoEncoderNew"
    by_activation = {"jumprelu": "JumpReluAutoEncoder", "topk": "AutoEncoderTopK"}
    return by_activation.get(given.cfg.activation, "GatedAutoEncoder")


def _numbers(sae: SAE, given: PretrainedSAE) -> dict[str, Tensor]:
    """What its class has beside weights."""
    if given.cfg.activation == "topk":
        return {"k": torch.tensor(given.cfg.k, dtype=torch.int32), "threshold": torch.tensor(-1.0)}
    if not isinstance(sae, BatchTopK):
        return {}
    numbers = {
        "k": torch.tensor(sae.cfg.k, dtype=torch.int32),
        "threshold": given.threshold[0].clone(),
    }
    if isinstance(sae, MatryoshkaSAE):
        widths = torch.tensor(sae.cfg.prefixes)
        numbers["group_sizes"] = widths.diff(prepend=torch.zeros_like(widths[:1]))
    return numbers


def _written_config(sae: SAE, dict_class: str, numbers: Mapping[str, Tensor]) -> dict[str, Any]:
    site = re.match(r"blocks\.(\d+)\.", sae.hook_name or "")
    is_block_output = (sae.hook_name or "").endswith(".hook_resid_post")
    trainer = {
        "dict_class": dict_class,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "layer": int(site[1]) if site else None,
        "lm_name": sae.provenance.model_name,
        "submodule_name": f"resid_post_layer_{site[1]}" if site and is_block_output else None,
    }
    if "k" in numbers:
        trainer["k"] = int(numbers["k"])
    buffer = {"d_submodule": sae.d_in, "io": "out", "ctx_len": sae.provenance.context_size}
    return {"trainer": trainer, "buffer": buffer, "metadata": sae.provenance.to_metadata()}
