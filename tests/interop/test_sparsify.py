"""Dictionaries of EleutherAI's sparsify compute here what its own class computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sparsify_files import (
    CONFIG,
    D_IN,
    D_SAE,
    K,
    State,
    check_same,
    inputs,
    original,
    random,
    state,
    write,
)

import sae
from sae.interop import PretrainedSAE

RUN = {
    **{"sae": {}, "model": "openai-community/gpt2", "dataset": "some/texts", "ctx_len": 256},
    "hookpoints": ["h.3", "h.3.mlp", "ln_f"],
}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_every_variant_computes_what_the_package_computes(
    tmp_path: Path, activation: str, transcode: bool, skip: bool
) -> None:
    changes = {"activation": activation, "transcode": transcode, "skip_connection": skip}
    tensors = state(skip=skip)
    ours = sae.load(write(tmp_path / "h.3", tensors, **changes))
    assert isinstance(ours, PretrainedSAE)
    check_same(ours, *original({**CONFIG, **changes}, tensors, inputs()), inputs())


@pytest.mark.parametrize("name", ["sae.safetensors", "cfg.json"])
def test_a_file_of_the_folder_will_do(tmp_path: Path, name: str) -> None:
    ours = sae.load(write(tmp_path, state()) / name)
    check_same(ours, *original(CONFIG, state(), inputs()), inputs())


def test_groupmax_keeps_the_largest_feature_of_each_group(tmp_path: Path) -> None:
    """Worked by hand: groups (1, 3), (-1, -2) and (5, 5), with nothing of the input in them."""
    tensors = {
        "encoder.weight": torch.zeros(6, 2),
        "encoder.bias": torch.tensor([1.0, 3.0, -1.0, -2.0, 5.0, 4.0]),
        "W_dec": torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3),
        "b_dec": torch.tensor([10.0, 20.0]),
    }
    path = write(tmp_path, tensors, activation="groupmax", k=3, d_in=2, num_latents=6)
    ours = sae.load(path)
    assert ours.encode(torch.ones(1, 2)).tolist() == [[0.0, 3.0, 0.0, 0.0, 5.0, 0.0]]
    assert ours(torch.ones(1, 2)).tolist() == [[13.0, 25.0]]


def test_zero_latents_mean_the_expansion_factor(tmp_path: Path) -> None:
    """SAELens builds a dictionary of 0 features."""
    assert sae.load(write(tmp_path, state(), num_latents=0, expansion_factor=4)).d_sae == 32


def test_the_number_of_latents_counts_where_there_is_one(tmp_path: Path) -> None:
    """The factor is the default of 32 then, and says nothing."""
    assert sae.load(write(tmp_path, state(), num_latents=32, expansion_factor=32)).d_sae == 32


def test_the_decoder_is_not_transposed(tmp_path: Path) -> None:
    """SAELens transposes it; of a square dictionary, nothing but the numbers would tell."""
    square = {
        "encoder.weight": random(D_IN, D_IN),
        "encoder.bias": random(D_IN).abs(),
        "W_dec": random(D_IN, D_IN, seed=3),
        "b_dec": random(D_IN),
    }
    config = {"num_latents": D_IN, "k": 3}
    ours = sae.load(write(tmp_path, square, **config))
    assert torch.equal(ours.W_dec, square["W_dec"])
    check_same(ours, *original({**CONFIG, **config}, square, inputs()), inputs())


@pytest.mark.parametrize("normalize_decoder", [False, True])
def test_the_decoder_bias_is_subtracted_whether_rows_are_unit_or_not(
    tmp_path: Path, normalize_decoder: bool
) -> None:
    """SAELens subtracts it only where `normalize_decoder` is false; it says nothing of b_dec."""
    ours = sae.load(write(tmp_path, state(), normalize_decoder=normalize_decoder))
    check_same(ours, *original(CONFIG, state(), inputs()), inputs())


def test_the_skip_connection_is_transposed(tmp_path: Path) -> None:
    tensors = {**state(skip=True), "W_skip": torch.zeros(D_IN, D_IN)}
    tensors["W_skip"][0, 1] = 1.0  # x[1] is added to the first output
    plain = sae.load(write(tmp_path / "a", state()))
    skips = sae.load(write(tmp_path / "b", tensors, skip_connection=True))
    added = skips(inputs()) - plain(inputs())
    assert torch.allclose(added[:, 0], inputs()[:, 1], atol=1e-5)
    assert torch.equal(added[:, 1:], torch.zeros(64, D_IN - 1))


def test_keys_that_older_versions_did_not_write_have_their_defaults(tmp_path: Path) -> None:
    older = {
        **{"expansion_factor": 4, "normalize_decoder": True, "num_latents": 0, "k": K},
        **{"signed": False, "d_in": D_IN},
    }
    folder = write(tmp_path, state())
    (folder / "cfg.json").write_text(json.dumps(older))
    check_same(sae.load(folder), *original(CONFIG, state(), inputs()), inputs())


def test_a_second_loss_in_training_leaves_encoding_with_k_features(tmp_path: Path) -> None:
    ours = sae.load(write(tmp_path, state(), multi_topk=True))
    check_same(ours, *original(CONFIG, state(), inputs()), inputs())


def test_features_beyond_the_positive_ones_are_not_active(tmp_path: Path) -> None:
    tensors = state()
    tensors["encoder.bias"] = tensors["encoder.bias"] - 5
    ours = sae.load(write(tmp_path, tensors))
    assert (ours.encode(inputs()) != 0).sum(dim=1).min() < K
    check_same(ours, *original(CONFIG, tensors, inputs()), inputs())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_are_read_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in state().items()}
    ours = sae.load(write(tmp_path, stored))
    in_float32 = {name: tensor.to(torch.float32) for name, tensor in stored.items()}
    check_same(ours, *original(CONFIG, in_float32, inputs()), inputs())


# What it says of itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hookpoint", "model", "hook_name"),
    [
        ("h.3", "gpt2", "blocks.3.hook_resid_post"),
        ("h.3.mlp", "gpt2", "blocks.3.hook_mlp_out"),
        ("h.3.attn", "gpt2", "blocks.3.hook_attn_out"),
        ("layers.11", "google/gemma-2-2b", "blocks.11.hook_resid_post"),
        ("layers.11.mlp", "HuggingFaceTB/SmolLM2-135M", "blocks.11.hook_mlp_out"),
        ("layers.11.self_attn", "meta-llama/Llama-3.2-1B", "blocks.11.hook_attn_out"),
        ("layers.11.mlp", "google/gemma-2-2b", None),  # which normalises it before adding it
        ("h.3.mlp", "bigscience/bloom-560m", None),  # whose module adds the stream itself
        ("layers.11.mlp.down_proj", "meta-llama/Llama-3.2-1B", None),
        ("embed_tokens", "gpt2", None),
        ("mine", "gpt2", None),
    ],
)
@pytest.mark.parametrize("seed", ["", "seed1"])
def test_the_module_says_the_site_where_that_is_certain(
    tmp_path: Path, hookpoint: str, model: str, hook_name: str | None, seed: str
) -> None:
    folder = write(tmp_path / "run" / hookpoint / seed, state())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**RUN, "model": model}))
    ours = sae.load(folder)
    assert ours.hook_name == hook_name
    assert ours.provenance.to_metadata()["model_name"] == model


def test_the_metadata_are_what_the_run_says(tmp_path: Path) -> None:
    folder = write(tmp_path / "h.3", state())
    (tmp_path / "config.json").write_text(json.dumps(RUN))
    assert sae.load(folder).provenance.to_metadata() == {
        **{"model_name": "gpt2", "hook_name": "blocks.3.hook_resid_post"},
        **{"dataset_path": "some/texts", "context_size": 256, "processing": "raw"},
        "hookpoint": "h.3",
    }


def test_a_relative_path_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path / "h.3", state()))
    assert sae.load(".").hook_name == "blocks.3.hook_resid_post"
    assert sae.load("sae.safetensors").hook_name == "blocks.3.hook_resid_post"


def test_without_the_run_the_model_is_not_known(tmp_path: Path) -> None:
    folder = write(tmp_path / "h.3", state())
    (tmp_path / "config.json").write_text(json.dumps({"model": "something else"}))
    metadata = {"hook_name": "blocks.3.hook_resid_post", "hookpoint": "h.3"}
    assert sae.load(folder).provenance.to_metadata() == metadata


def test_of_a_transcoder_the_module_says_where_the_output_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "h.3.mlp", state(), transcode=True)
    (tmp_path / "config.json").write_text(json.dumps(RUN))
    ours = sae.load(folder)
    assert ours.hook_name is None
    assert ours.provenance.to_metadata()["hook_name_out"] == "blocks.3.hook_mlp_out"


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation": "batchtopk"}, "has activation 'batchtopk': known are topk, groupmax"),
        ({"signed": True}, "has signed true"),
        ({"rotation": 1}, "unknown keys: rotation: what the dictionary computes is not known"),
        ({"k": None}, "k in cfg.json must be a whole number"),
        ({"k": D_SAE + 1}, r"k must be in 1..d_sae \(32\), got 33"),
        ({"k": 5, "activation": "groupmax"}, "cannot be split into 5 equal groups"),
        ({"num_latents": 16}, r"is of shape \(32, 8\), expected \(16, 8\)"),
        ({"skip_connection": True}, "lacks the tensor W_skip"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(sae.InputError, match=message):
        sae.load(write(tmp_path, state(), **config))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"W_skip": torch.eye(D_IN)}, "holds W_skip, which this layout does not have"),
        (
            {"W_dec": torch.zeros(D_IN, D_SAE)},
            r"W_dec in .* expected \(32, any\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, tensors: State, message: str) -> None:
    with pytest.raises(sae.InputError, match=message):
        sae.load(write(tmp_path, {**state(), **tensors}))
