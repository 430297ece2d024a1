from pathlib import Path
from typing import Any

import pytest
import torch
from saelens_files import (
    D_IN,
    D_SAE,
    HOOK,
    assert_agrees,
    config_of,
    inputs,
    original,
    put,
    weights_of,
)
from torch import Tensor

import sae
from sae.interop import export


def _flat(**changes: Any) -> dict[str, Any]:
    """A config of version 5, with what a training run leaves in it."""
    config: dict[str, Any] = {
        "architecture": "standard",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "torch.float32",
        "device": "cuda",
        "model_name": "gpt2-small",
        "hook_name": HOOK,
        "hook_layer": 3,
        "hook_head_index": None,
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "normalize_activations": "none",
        "context_size": 128,
        "prepend_bos": True,
        "dataset_path": "Skylion007/openwebtext",
        "dataset_trust_remote_code": True,
        "neuronpedia_id": None,
        "l1_coefficient": 5.0,
        "sae_lens_training_version": "5.2.1",
    }
    return config | changes


@pytest.mark.parametrize(
    ("architecture", "kind", "subtracts"),
    [
        ("standard", "none", True),
        ("jumprelu", "layer_norm", False),
        ("gated", "constant_norm_rescale", True),
    ],
)
def test_every_architecture_computes_what_it_did(
    tmp_path: Path, architecture: str, kind: str, subtracts: bool
) -> None:
    changes = {"normalize_activations": kind, "apply_b_dec_to_input": subtracts}
    weights, x = weights_of(architecture), inputs()
    dictionary = sae.load(put(tmp_path, _flat(architecture=architecture, **changes), weights))
    assert_agrees(dictionary, x, *original(config_of(architecture, **changes), weights, x))


@pytest.mark.parametrize(
    ("architecture", "key"), [("standard", "activation_fn"), ("topk", "activation_fn_str")]
)
def test_the_activation_says_topk_and_its_options_say_k(
    tmp_path: Path, architecture: str, key: str
) -> None:
    """Once, such files were loaded as if they were ReLU; layer norm stays with them."""
    weights, x = weights_of("topk"), inputs()
    config = _flat(architecture=architecture, normalize_activations="layer_norm")
    del config["activation_fn_str"]
    config |= {key: "topk", "activation_fn_kwargs": {"k": 3}}
    dictionary = sae.load(put(tmp_path, config, weights))
    changes = {"normalize_activations": "layer_norm", "rescale_acts_by_decoder_norm": False}
    assert_agrees(dictionary, x, *original(config_of("topk", k=3, **changes), weights, x))


def test_what_old_files_leave_out_has_the_values_of_then(tmp_path: Path) -> None:
    weights, x = weights_of("standard"), inputs()
    config = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32"}
    dictionary = sae.load(put(tmp_path, config, weights))
    assert_agrees(dictionary, x, *original(config_of("standard"), weights, x))
    assert dictionary.provenance.to_metadata() == {"prepend_bos": True}


def test_the_oldest_names_of_the_site_are_known(tmp_path: Path) -> None:
    config = {
        "model_name": "gpt2-small",
        "hook_point": "blocks.8.hook_resid_pre",
        "hook_point_layer": 8,
        "hook_point_head_index": None,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "torch.float32",
        "context_size": 128,
        "lr_scheduler_name": "constantwithwarmup",
        "use_ghost_grads": False,
        "b_dec_init_method": "geometric_median",
    }
    dictionary = sae.load(put(tmp_path, config, weights_of("standard")))
    assert dictionary.provenance.to_metadata() == {
        "model_name": "gpt2",
        "hook_name": "blocks.8.hook_resid_pre",
        "context_size": 128,
        "prepend_bos": True,
    }


@pytest.mark.parametrize(
    ("options", "processing"),
    [
        (None, None),
        ({}, None),
        ({"center_writing_weights": False}, "raw"),
        ({"center_writing_weights": True}, "centred"),
    ],
)
def test_how_the_model_was_processed_is_known_only_where_it_is_said(
    tmp_path: Path, options: dict[str, bool] | None, processing: str | None
) -> None:
    config = _flat(model_from_pretrained_kwargs=options)
    dictionary = sae.load(put(tmp_path, config, weights_of("standard")))
    assert dictionary.provenance.to_metadata().get("processing") == processing


def test_normalize_activations_false_is_none(tmp_path: Path) -> None:
    weights, x = weights_of("standard"), inputs()
    dictionary = sae.load(put(tmp_path, _flat(normalize_activations=False), weights))
    assert_agrees(dictionary, x, *original(config_of("standard"), weights, x))


@pytest.mark.parametrize("kind", [True, "expected_average_only_in"])
def test_normalize_activations_true_is_a_factor_that_must_be_given(
    tmp_path: Path, kind: object
) -> None:
    """SAELens only warns, and computes other features."""
    weights, x = weights_of("standard"), inputs()
    folder = put(tmp_path, _flat(normalize_activations=kind), weights)
    with pytest.raises(sae.InputError, match="give norm_scaling_factor"):
        sae.load(folder)
    acts, x_hat = original(config_of("standard"), weights, 2.3693984 * x)
    dictionary = sae.load(folder, norm_scaling_factor=2.3693984)
    assert_agrees(dictionary, x, acts, x_hat / 2.3693984)


# Scaling factors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("standard", "scaling_factor"), ("gated", "finetuning_scaling_factor")],
)
def test_a_scaling_factor_changes_the_reconstruction_and_no_feature(
    tmp_path: Path, architecture: str, name: str
) -> None:
    """SAELens 6 cannot load such files."""
    weights, x = weights_of(architecture), inputs()
    scaling = torch.linspace(0.5, 2.0, D_SAE)
    config = _flat(architecture=architecture, finetuning_scaling_factor=True)
    dictionary = sae.load(put(tmp_path, config, weights | {name: scaling}))
    acts, _ = original(config_of(architecture), weights, x)
    assert_agrees(dictionary, x, acts, (acts * scaling) @ weights["W_dec"] + weights["b_dec"])


@pytest.mark.parametrize("is_on", [True, False])
def test_a_scaling_factor_of_ones_is_none(tmp_path: Path, is_on: bool) -> None:
    weights, x = weights_of("standard"), inputs()
    config = _flat(finetuning_scaling_factor=is_on)
    folder = put(tmp_path, config, weights | {"scaling_factor": torch.ones(D_SAE)})
    assert_agrees(sae.load(folder), x, *original(config_of("standard"), weights, x))


@pytest.mark.parametrize(
    ("tensors", "changes", "line"),
    [
        ({"scaling_factor": 2 * torch.ones(D_SAE)}, {}, "has finetuning_scaling_factor False"),
        ({}, {"finetuning_scaling_factor": True}, "finetuning_scaling_factor True, and .* has 0"),
        (
            {"scaling_factor": 2 * torch.ones(3)},
            {"finetuning_scaling_factor": True},
            r"scaling_factor in .* is of shape \(3,\), expected \(32,\)",
        ),
        (
            {
                "scaling_factor": 2 * torch.ones(D_SAE),
                "finetuning_scaling_factor": 2 * torch.ones(D_SAE),
            },
            {"finetuning_scaling_factor": True},
            "has 2 scaling factors",
        ),
        (
            {"scaling_factor": 2 * torch.ones(D_SAE)},
            {"finetuning_scaling_factor": True, "rescale_acts_by_decoder_norm": True},
            "a scaling factor with rescale_acts_by_decoder_norm is refused",
        ),
    ],
)
def test_a_scaling_factor_that_cannot_be_told_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(sae.InputError, match=line):
        sae.load(put(tmp_path, _flat(**changes), weights_of("standard") | tensors))


# Activations -------------------------------------------------------------------------------------


def test_tanh_relu_is_not_taken_for_relu(tmp_path: Path) -> None:
    """SAELens 6 forgets the activation and says nothing."""
    weights, x = weights_of("standard"), inputs()
    dictionary = sae.load(put(tmp_path / "a", _flat(activation_fn_str="tanh-relu"), weights))
    acts = original(config_of("standard"), weights, x)[0].tanh()
    assert_agrees(dictionary, x, acts, acts @ weights["W_dec"] + weights["b_dec"])
    with pytest.raises(sae.InputError, match="cannot express the activation tanh_relu"):
        export(dictionary, tmp_path / "b", to="saelens")


def test_an_old_file_can_be_written_anew(tmp_path: Path) -> None:
    weights, x = weights_of("gated"), inputs()
    dictionary = sae.load(put(tmp_path / "a", _flat(architecture="gated"), weights))
    export(dictionary, tmp_path / "b", to="saelens")
    again = sae.load(tmp_path / "b")
    assert torch.equal(again(x), dictionary(x))
    assert again.provenance.to_metadata() == dictionary.provenance.to_metadata()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"activation_fn_str": "gelu"}, "has activation_fn 'gelu' with architecture 'standard'"),
        ({"activation_fn_str": "tanh-relu", "architecture": "jumprelu"}, "'tanh-relu' with arch"),
        ({"activation_fn_str": "topk"}, "k in cfg.json must be a whole number"),
        ({"activation_fn_kwargs": {"slope": 2}}, "activation_fn_kwargs has unknown keys: slope"),
        ({"is_transcoder": True}, "has unknown keys: is_transcoder"),
    ],
)
def test_what_cannot_be_had_exactly_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(sae.InputError, match=line) as refusal:
        sae.load(put(tmp_path, _flat() | changes, weights_of("standard")))
    assert "\n" not in str(refusal.value)


def test_the_two_names_of_the_activation_must_agree(tmp_path: Path) -> None:
    config = _flat(activation_fn="topk", activation_fn_kwargs={"k": 3})
    with pytest.raises(sae.InputError, match="activation_fn 'topk' and activation_fn_str 'relu'"):
        sae.load(put(tmp_path, config, weights_of("standard")))
