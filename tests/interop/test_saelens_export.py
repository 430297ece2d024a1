"""Dictionaries written for SAELens, version 6, and what its files cannot say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from saelens_files import (
    D_IN,
    D_SAE,
    EVERY,
    HOOK,
    assert_agrees,
    config_of,
    inputs,
    original,
    put,
    weights_of,
)
from safetensors.torch import load_file

import sae
from sae.architectures import ARCHITECTURES, JumpReLUConfig, TopKConfig
from sae.interop import PretrainedConfig, PretrainedSAE, export


@pytest.mark.parametrize("architecture", EVERY)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path, architecture: str) -> None:
    config, weights, x = config_of(architecture), weights_of(architecture), inputs()
    dictionary = sae.load(put(tmp_path / "theirs", config, weights))
    export(dictionary, tmp_path / "ours", to="saelens")
    again = sae.load(tmp_path / "ours")
    assert torch.equal(again.encode(x), dictionary.encode(x))
    assert torch.equal(again(x), dictionary(x))
    assert again.provenance.to_metadata() == dictionary.provenance.to_metadata()
    written = json.loads((tmp_path / "ours" / "cfg.json").read_text())
    stored = load_file(tmp_path / "ours" / "sae_weights.safetensors")
    assert written["architecture"] == architecture
    assert stored.keys() == weights.keys()
    assert_agrees(dictionary, x, *original(written, stored, x))


@pytest.mark.parametrize(
    ("kind", "subtracts"), [("layer_norm", True), ("constant_norm_rescale", False)]
)
def test_normalisation_is_written_too(tmp_path: Path, kind: str, subtracts: bool) -> None:
    changes = {"normalize_activations": kind, "apply_b_dec_to_input": subtracts}
    folder = put(tmp_path / "theirs", config_of("gated", **changes), weights_of("gated"))
    dictionary, x = sae.load(folder), inputs()
    export(dictionary, tmp_path / "ours", to="saelens")
    written = json.loads((tmp_path / "ours" / "cfg.json").read_text())
    stored = load_file(tmp_path / "ours" / "sae_weights.safetensors")
    assert_agrees(dictionary, x, *original(written, stored, x))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_our_own_architectures_are_written_for_saelens(tmp_path: Path, architecture: str) -> None:
    dictionary = ARCHITECTURES[architecture](d_sae=D_SAE).build(D_IN, seed=0)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.add_(torch.linspace(0, 0.5, parameter.shape[-1]))
    dictionary.provenance = sae.Provenance.from_metadata(
        {"model_name": "gpt2", "hook_name": HOOK, "processing": "centred"}
    )
    export(dictionary, tmp_path, to="saelens")
    written = json.loads((tmp_path / "cfg.json").read_text())
    stored = load_file(tmp_path / "sae_weights.safetensors")
    assert written["metadata"]["sae_lens_version"].startswith("6.")
    assert written["metadata"]["hook_name"] == HOOK
    centring = {"center_writing_weights": True}
    assert written["metadata"]["model_from_pretrained_kwargs"] == centring
    x = inputs()
    with torch.no_grad():
        assert_agrees(dictionary, x, *original(written, stored, x))
        assert torch.equal(sae.load(tmp_path)(x), dictionary(x))
    assert "sae_lens_version" not in dictionary.provenance.to_metadata()


def _pretrained(metadata: dict[str, Any] | None = None, **changes: Any) -> PretrainedSAE:
    settings: dict[str, Any] = {"d_sae": D_SAE, "activation": "relu"}
    weights = weights_of("standard")
    known = sae.Provenance.from_metadata(metadata or {})
    if changes.pop("has_skip", False):
        weights["W_skip"] = torch.eye(D_IN)
    return PretrainedSAE(PretrainedConfig(**(settings | changes)), weights, known)


def test_a_skip_connection_beside_a_subtracted_bias_is_written_without_it(tmp_path: Path) -> None:
    """SAELens' transcoders subtract nothing; the encoder's bias can do it."""
    dictionary, x = _pretrained(has_skip=True), inputs()
    export(dictionary, tmp_path, to="saelens")
    written = json.loads((tmp_path / "cfg.json").read_text())
    stored = load_file(tmp_path / "sae_weights.safetensors")
    assert written["apply_b_dec_to_input"] is False
    assert_agrees(dictionary, x, *original(written, stored, x))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"activation": "tanh_relu"}, "the activation tanh_relu"),
        ({"activation": "groupmax", "k": 4}, "activation groupmax"),
        ({"activation": "topk", "k": 4, "keeps_negative": True}, "keep negative values"),
        ({"activation": "topk", "k": 4, "selects_by_decoder_norm": True}, "compete by the norms"),
        ({"reverses_bias": True}, "a bias that decoding takes back"),
        ({"activation": "topk", "k": 4, "has_skip": True}, "skip_transcoder with activation topk"),
        (
            {"normalization": "layer_norm", "has_skip": True},
            "skip_transcoder with .* layer_norm",
        ),
    ],
)
def test_what_saelens_cannot_express_is_not_written(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(sae.InputError, match=f"saelens files cannot express .*{line}"):
        export(_pretrained(**changes), tmp_path / "out", to="saelens")
    assert not (tmp_path / "out").exists()


def test_one_of_ours_keeps_its_own_class(tmp_path: Path) -> None:
    dictionary = TopKConfig(d_sae=D_SAE, k=4).build(D_IN)
    export(dictionary, tmp_path, to="saelens")
    assert sae.load(tmp_path).cfg == dictionary.cfg


def test_one_of_ours_with_a_negative_threshold_is_not_written(tmp_path: Path) -> None:
    """Where ours would let negative features through, SAELens takes the relu first."""
    dictionary = JumpReLUConfig(d_sae=D_SAE).build(D_IN)
    with torch.no_grad():
        dictionary.threshold[3] = -0.1
    with pytest.raises(sae.InputError, match="threshold is negative"):
        export(dictionary, tmp_path, to="saelens")


def test_heads_that_were_flattened_stay_so(tmp_path: Path) -> None:
    config = config_of("standard", reshape_activations="hook_z")
    dictionary = sae.load(put(tmp_path / "a", config, weights_of("standard")))
    export(dictionary, tmp_path / "b", to="saelens")
    written = json.loads((tmp_path / "b" / "cfg.json").read_text())
    assert written["reshape_activations"] == "hook_z"
    assert sae.load(tmp_path / "b").provenance.to_metadata() == dictionary.provenance.to_metadata()


def test_the_name_of_a_module_is_written_as_it_was_read(tmp_path: Path) -> None:
    said = {"model_class_name": "AutoModelForCausalLM", "hook_name": "model.layers.4"}
    config = config_of("standard", metadata=said)
    dictionary = sae.load(put(tmp_path / "a", config, weights_of("standard")))
    export(dictionary, tmp_path / "b", to="saelens")
    written = json.loads((tmp_path / "b" / "cfg.json").read_text())
    assert written["metadata"]["hook_name"] == "model.layers.4"
    assert sae.load(tmp_path / "b").provenance.to_metadata() == dictionary.provenance.to_metadata()
