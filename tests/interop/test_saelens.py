"""Files of SAELens, version 6: read to the same features, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from saelens_files import (
    D_IN,
    D_OUT,
    D_SAE,
    EVERY,
    HOOK,
    SAES,
    assert_agrees,
    config_of,
    inputs,
    original,
    put,
    weights_of,
)
from torch import Tensor

import sae
from sae.interop.matching_pursuit import matching_pursuit

# Reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", EVERY)
def test_every_architecture_computes_what_saelens_does(tmp_path: Path, architecture: str) -> None:
    config, weights, x = config_of(architecture), weights_of(architecture), inputs()
    assert_agrees(sae.load(put(tmp_path, config, weights)), x, *original(config, weights, x))


@pytest.mark.parametrize(
    ("architecture", "kind", "subtracts"),
    [
        *((architecture, "layer_norm", True) for architecture in SAES),
        ("standard", "layer_norm", False),
        ("gated", "constant_norm_rescale", True),
        ("matching_pursuit", "constant_norm_rescale", False),
        ("topk", "none", False),
    ],
)
def test_tokens_are_normalised_and_brought_back(
    tmp_path: Path, architecture: str, kind: str, subtracts: bool
) -> None:
    changes = {"normalize_activations": kind, "apply_b_dec_to_input": subtracts}
    config, weights, x = config_of(architecture, **changes), weights_of(architecture), inputs()
    assert_agrees(sae.load(put(tmp_path, config, weights)), x, *original(config, weights, x))


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
def test_a_scale_that_is_given_is_folded_and_leaves_the_features_alone(
    tmp_path: Path, architecture: str
) -> None:
    config = config_of(architecture, normalize_activations="expected_average_only_in")
    weights, x = weights_of(architecture), inputs()
    dictionary = sae.load(put(tmp_path, config, weights), norm_scaling_factor=0.37)
    acts, x_hat = original(config, weights, 0.37 * x)
    assert_agrees(dictionary, x, acts, x_hat / 0.37)


@pytest.mark.parametrize("architecture", ["topk", "abstopk"])
def test_rescaled_features_are_by_the_norms_that_the_folded_decoder_has(
    tmp_path: Path, architecture: str
) -> None:
    """SAELens folds the scale first, which makes decoder rows, and so these features, longer."""
    config = config_of(architecture, normalize_activations="expected_average_only_in")
    weights, x = weights_of(architecture), inputs()
    dictionary = sae.load(put(tmp_path, config, weights), norm_scaling_factor=0.37)
    acts, x_hat = original(config, weights, 0.37 * x)
    assert_agrees(dictionary, x, acts / 0.37, x_hat / 0.37)


def test_a_scaled_matching_pursuit_stops_where_it_did(tmp_path: Path) -> None:
    config = config_of("matching_pursuit", normalize_activations="expected_average_only_in")
    weights, x = weights_of("matching_pursuit"), inputs()
    dictionary = sae.load(put(tmp_path, config, weights), norm_scaling_factor=0.37)
    acts, x_hat = original(config, weights, 0.37 * x)
    assert_agrees(dictionary, x, acts / 0.37, x_hat / 0.37)


def test_features_compete_by_decoder_norm_only_where_the_file_says_so(tmp_path: Path) -> None:
    weights, x = weights_of("topk"), inputs()
    found: list[Tensor] = []
    for rescales in (True, False):
        config = config_of("topk", rescale_acts_by_decoder_norm=rescales)
        dictionary = sae.load(put(tmp_path / str(rescales), config, weights))
        assert_agrees(dictionary, x, *original(config, weights, x))
        found.append(dictionary.encode(x) != 0)
    assert not torch.equal(*found)


def test_the_k_largest_are_chosen_before_the_relu(tmp_path: Path) -> None:
    """So fewer than k may be active; a relu first would change nothing here, a threshold would."""
    weights = weights_of("topk")
    weights["b_enc"] -= 6.0
    config, x = config_of("topk"), inputs()
    dictionary = sae.load(put(tmp_path, config, weights))
    assert_agrees(dictionary, x, *original(config, weights, x))
    assert (dictionary.encode(x) != 0).sum(dim=1).min() < 5


def test_a_threshold_must_be_exceeded_not_reached(tmp_path: Path) -> None:
    weights = {name: torch.zeros_like(w) for name, w in weights_of("jumprelu").items()}
    weights["W_enc"][0, :3] = 1.0
    weights["threshold"][:3] = torch.tensor([1.0, 2.0, 3.0])
    dictionary = sae.load(put(tmp_path, config_of("jumprelu"), weights))
    x = torch.zeros(1, D_IN)
    x[0, 0] = 2.0
    assert dictionary.encode(x)[0, :3].tolist() == [2.0, 0.0, 0.0]


def test_below_a_negative_threshold_the_relu_still_holds(tmp_path: Path) -> None:
    config, weights, x = config_of("jumprelu"), weights_of("jumprelu"), inputs()
    weights["threshold"] = -weights["threshold"].abs()
    dictionary = sae.load(put(tmp_path, config, weights))
    assert_agrees(dictionary, x, *original(config, weights, x))
    assert (dictionary.encode(x) >= 0).all()


def test_a_gated_dictionary_has_no_b_enc(tmp_path: Path) -> None:
    weights = weights_of("gated") | {"b_enc": torch.zeros(D_SAE)}
    with pytest.raises(sae.InputError, match="holds b_enc, which this layout does not have"):
        sae.load(put(tmp_path, config_of("gated"), weights))


def test_a_transcoder_makes_outputs_of_their_own_width(tmp_path: Path) -> None:
    folder = put(tmp_path, config_of("skip_transcoder"), weights_of("skip_transcoder"))
    dictionary = sae.load(folder)
    assert dictionary(inputs()).shape == (40, D_OUT)
    assert dictionary.provenance.to_metadata()["hook_name_out"] == "blocks.3.hook_mlp_out"


def test_the_dtype_of_a_config_may_have_torch_before_it(tmp_path: Path) -> None:
    config = config_of("standard", dtype="torch.bfloat16")
    weights = {name: w.bfloat16() for name, w in weights_of("standard").items()}
    dictionary, x = sae.load(put(tmp_path, config, weights)), inputs()
    exact = {name: w.float() for name, w in weights.items()}
    assert_agrees(dictionary, x, *original(config, exact, x))


def test_a_file_of_a_dictionary_stands_for_its_folder(tmp_path: Path) -> None:
    folder = put(tmp_path, config_of("standard"), weights_of("standard"))
    x = inputs()
    assert torch.equal(sae.load(folder / "sae_weights.safetensors")(x), sae.load(folder)(x))


def test_what_is_known_of_model_and_site_comes_along(tmp_path: Path) -> None:
    dictionary = sae.load(put(tmp_path, config_of("standard"), weights_of("standard")))
    assert dictionary.hook_name == HOOK
    assert dictionary.provenance.to_metadata() == {
        "model_name": "gpt2",
        "hook_name": HOOK,
        "context_size": 128,
        "prepend_bos": True,
        "processing": "raw",
    }


def test_what_is_not_known_of_model_and_site_is_not_guessed(tmp_path: Path) -> None:
    config = config_of("standard", metadata={"sae_lens_version": "6.0.0"})
    assert sae.load(put(tmp_path, config, weights_of("standard"))).provenance.to_metadata() == {}


def test_centred_activations_are_told_from_raw_ones(tmp_path: Path) -> None:
    options = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    config = config_of("standard", metadata=options)
    dictionary = sae.load(put(tmp_path, config, weights_of("standard")))
    assert dictionary.provenance.to_metadata() == {"processing": "centred"}


def test_a_module_is_no_transformerlens_site(tmp_path: Path) -> None:
    said = {"model_class_name": "AutoModelForCausalLM", "hook_name": "model.layers.4"}
    config = config_of("standard", metadata=said)
    dictionary = sae.load(put(tmp_path, config, weights_of("standard")))
    assert dictionary.hook_name is None
    assert dictionary.provenance.to_metadata()["hf_hook_name"] == "model.layers.4"


@given(
    rounds=st.integers(1, 10),
    threshold=st.sampled_from([0.0, 0.5, 3.0]),
    stops=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_matching_pursuit_is_that_of_each_token_alone(
    rounds: int, threshold: float, stops: bool, seed: int
) -> None:
    changes = {"residual_threshold": threshold, "stop_on_duplicate_support": stops}
    config = config_of("matching_pursuit", max_iterations=rounds, **changes)
    weights, x = weights_of("matching_pursuit", seed), inputs(seed)[:6]
    acts = matching_pursuit(
        x - weights["b_dec"],
        weights["W_dec"],
        n_rounds=rounds,
        residual_threshold=threshold,
        stops_at_same_support=stops,
    )
    expected, _ = original(config, weights, x)
    assert torch.equal(acts != 0, expected != 0)
    assert torch.allclose(acts, expected, rtol=1e-4, atol=1e-4)


def test_matching_pursuit_by_hand() -> None:
    """The second token is done after a round; the first takes 4 along the first row, then 3."""
    acts = matching_pursuit(
        torch.tensor([[4.0, 3.0], [2.0, 0.1]]),
        torch.eye(2),
        n_rounds=5,
        residual_threshold=0.5,
        stops_at_same_support=False,
    )
    assert acts.tolist() == [[4.0, 3.0], [2.0, 0.0]]


# Refusing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"architecture": "temporal", "n_heads": 8},
            "architecture 'temporal': .* the tokens before",
        ),
        ({"architecture": "crosscoder"}, "architecture 'crosscoder': .* several sites"),
        ({"architecture": "magic"}, "has architecture 'magic': known are standard, "),
        ({"normalize_activations": "magic"}, "has normalize_activations 'magic': known are none"),
        ({"normalize_activations": "expected_average_only_in"}, "give norm_scaling_factor"),
        ({"normalize_activations": "covariance_whitening"}, "activation_whitening.safetensors"),
        ({"reshape_activations": "hook_q"}, "has reshape_activations 'hook_q': known are none"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input in cfg.json must be true or false"),
        ({"d_in": 9}, r"W_enc in .* is of shape \(8, 32\), expected \(9, 32\)"),
        ({"d_sae": 10**12}, r"W_enc in .* expected \(8, 1000000000000\)"),
        ({"tanh_scale": 2.0}, "has unknown keys: tanh_scale: what"),
    ],
)
def test_what_cannot_be_had_exactly_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    folder = put(tmp_path, config_of("standard") | changes, weights_of("standard"))
    with pytest.raises(sae.InputError, match=line) as refusal:
        sae.load(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("k", [0, D_SAE + 1, None])
def test_an_impossible_k_is_refused(tmp_path: Path, k: object) -> None:
    with pytest.raises(sae.InputError, match="k"):
        sae.load(put(tmp_path, config_of("topk", k=k), weights_of("topk")))


@pytest.mark.parametrize("kind", ["layer_norm", "expected_average_only_in"])
def test_a_transcoder_that_normalises_is_refused(tmp_path: Path, kind: str) -> None:
    config = config_of("transcoder", normalize_activations=kind)
    with pytest.raises(sae.InputError, match=f"a transcoder with .* normalize_activations {kind}"):
        sae.load(put(tmp_path, config, weights_of("transcoder")), norm_scaling_factor=2.0)


def test_a_transcoder_that_subtracts_b_dec_is_refused(tmp_path: Path) -> None:
    config = config_of("transcoder", apply_b_dec_to_input=True)
    with pytest.raises(sae.InputError, match="a transcoder with apply_b_dec_to_input"):
        sae.load(put(tmp_path, config, weights_of("transcoder")))


def test_a_factor_that_is_no_factor_is_refused(tmp_path: Path) -> None:
    config = config_of("standard", normalize_activations="expected_average_only_in")
    folder = put(tmp_path, config, weights_of("standard"))
    for factor in (0.0, float("inf")):
        with pytest.raises(sae.InputError, match="norm_scaling_factor must be a"):
            sae.load(folder, norm_scaling_factor=factor)


@pytest.mark.parametrize("name", ["W_enc", "b_dec"])
def test_tensors_of_other_shapes_are_refused(tmp_path: Path, name: str) -> None:
    weights = weights_of("standard")
    for shape in ((), (3,), (3, 3)):
        folder = put(tmp_path, config_of("standard"), weights | {name: torch.zeros(shape)})
        with pytest.raises(sae.InputError):
            sae.load(folder)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = weights_of("jumprelu")
    del weights["threshold"]
    with pytest.raises(sae.InputError, match="lacks the tensor threshold"):
        sae.load(put(tmp_path, config_of("jumprelu"), weights))


def test_a_scaling_factor_has_no_place_in_version_6(tmp_path: Path) -> None:
    weights = weights_of("standard") | {"scaling_factor": torch.full((D_SAE,), 2.0)}
    with pytest.raises(sae.InputError, match="holds scaling_factor, which this layout does not"):
        sae.load(put(tmp_path, config_of("standard"), weights))
