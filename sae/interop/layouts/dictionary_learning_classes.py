"""The classes that dictionary_learning saves, and what each of them computes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sae.interop.pretrained import Activation

LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
"""Matrices of nn.Linear, which are the transposes of ours."""


@dataclass(frozen=True, kw_only=True)
class DictClass:
    """What a class of the package computes, and how it calls what we call otherwise."""

    activation: Activation
    subtracts_b_dec: bool = True
    names: Mapping[str, str]
    """Its names of our tensors."""
    needs: frozenset[str] = frozenset()
    """What it has beside them."""
    may_have: frozenset[str] = frozenset()


PARAMETERS = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
WITH_B_DEC = {**LINEAR, "b_enc": "encoder.bias", "b_dec": "b_dec"}
CLASSES: Mapping[str, DictClass] = {
    "AutoEncoder": DictClass(
        activation="relu", names={**LINEAR, "b_enc": "encoder.bias", "b_dec": "bias"}
    ),
    "AutoEncoderNew": DictClass(
        activation="relu",
        subtracts_b_dec=False,
        names={**LINEAR, "b_enc": "encoder.bias", "b_dec": "decoder.bias"},
    ),
    "GatedAutoEncoder": DictClass(
        activation="gated",
        names={
            **LINEAR,
            "b_enc": "gate_bias",
            "b_dec": "decoder_bias",
            "b_mag": "mag_bias",
            "r_mag": "r_mag",
        },
    ),
    "JumpReluAutoEncoder": DictClass(
        activation="jumprelu",
        subtracts_b_dec=False,
        names={**PARAMETERS, "threshold": "threshold"},
    ),
    "AutoEncoderTopK": DictClass(
        activation="topk", names=WITH_B_DEC, may_have=frozenset({"k", "threshold"})
    ),
    "BatchTopKSAE": DictClass(
        activation="jumprelu",
        names=WITH_B_DEC,
        needs=frozenset({"threshold"}),
        may_have=frozenset({"k"}),
    ),
    "MatryoshkaBatchTopKSAE": DictClass(
        activation="jumprelu",
        names=PARAMETERS,
        needs=frozenset({"threshold", "group_sizes"}),
        may_have=frozenset({"k"}),
    ),
}


def fitting(names: Collection[str]) -> list[str]:
    """The classes that have just these tensors."""
    found: list[str] = []
    for dict_class, of in CLASSES.items():
        needed = {*of.names.values(), *of.needs}
        if needed <= set(names) <= needed | of.may_have:
            found.append(dict_class)
    return found
