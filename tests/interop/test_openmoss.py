"""OpenMOSS' R1-Distill, and what their current program writes, compute here what they do there."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from openmoss_files import (
    D_IN,
    D_SAE,
    LOG_THRESHOLD,
    OTHER,
    SITE,
    Forward,
    S,
    agrees,
    as_matrices,
    average_norms,
    inputs,
    later,
    later_config,
    linear_layers,
    log_threshold,
    r1_distill,
    refusal,
    write,
)
from safetensors.torch import save_file
from torch import Tensor

import sae


def original_later(
    config: dict[str, Any], x: Tensor, s_in: Tensor | float, s_out: Tensor | float
) -> Forward:
    """Normalise, encode, decode, denormalise."""
    of = as_matrices(linear_layers())
    z = x * s_in
    if config.get("apply_decoder_bias_to_pre_encoder"):
        z = z - of["b_D"]
    h = z @ of["W_E"] + of["b_E"]
    gate = h * of["W_D"].norm(dim=1) if config["sparsity_include_decoder_norm"] else h
    if config["act_fn"] == "relu":
        active = gate > 0
    elif config["act_fn"] == "jumprelu":
        active = gate > log_threshold().exp()
    else:
        kept = gate.clamp(min=0).topk(config["top_k"]).indices
        active = torch.zeros_like(gate).scatter(1, kept, 1.0) * (gate > 0) > 0
    acts = h * active
    return acts, (acts @ of["W_D"] + of["b_D"]) / s_out


@pytest.mark.parametrize("act_fn", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("by_norm", [True, False], ids=["by norm", "by value"])
def test_a_dictionary_of_the_current_program_has_the_features_of_the_original(
    tmp_path: Path, act_fn: str, by_norm: bool
) -> None:
    norms = average_norms(site=9.0)
    folder, config = later(tmp_path, norms, act_fn=act_fn, sparsity_include_decoder_norm=by_norm)
    assert agrees(sae.load(folder), original_later(config, inputs(), S, S))


def test_the_gate_is_tested_on_h_times_the_decoder_norm_and_the_feature_is_h(
    tmp_path: Path,
) -> None:
    """W_D has the norm 2 and the threshold is 1: h = 0.5 is off, h = 0.625 is on."""
    tensors = {
        "W_E": torch.eye(D_IN, D_SAE),
        "W_D": 2 * torch.eye(D_SAE, D_IN),
        "b_E": torch.zeros(D_SAE),
        "b_D": torch.zeros(D_IN),
        LOG_THRESHOLD: torch.zeros(D_SAE),
    }
    tensors["W_D"][D_IN:, 0] = 2.0
    config = later_config(norm_activation="inference")
    write(tmp_path, config, tensors, "sae_weights.safetensors", "config.json")
    x = torch.tensor([[0.5, 0.625, 1.5, 0, 0, 0, 0, 0]])
    assert sae.load(tmp_path).encode(x)[0, :3].tolist() == [0.0, 0.625, 1.5]


def test_topk_chooses_by_decoder_norm_where_the_config_says_so(tmp_path: Path) -> None:
    norms = average_norms(site=9.0)
    (tmp_path / "by").mkdir()
    by, _ = later(tmp_path / "by", norms, act_fn="topk")
    plain, _ = later(tmp_path, norms, act_fn="topk", sparsity_include_decoder_norm=False)
    assert not torch.equal(sae.load(by).encode(inputs()), sae.load(plain).encode(inputs()))


def test_dataset_norms_in_the_file_are_used(tmp_path: Path) -> None:
    folder, config = later(tmp_path, average_norms(site=9.0))
    loaded = sae.load(folder)
    without = original_later(config, inputs(), 1.0, 1.0)[0]
    assert not torch.allclose(loaded.encode(inputs()), without, atol=0.1)
    assert agrees(loaded, original_later(config, inputs(), S, S))


@pytest.mark.parametrize("garbage", [math.nan, 0.0, 123.0])
def test_norms_that_were_never_measured_are_not_used(tmp_path: Path, garbage: float) -> None:
    """The program writes memory that nobody filled where activations are not normalised."""
    folder, config = later(tmp_path, average_norms(site=garbage), norm_activation="inference")
    assert agrees(sae.load(folder), original_later(config, inputs(), 1.0, 1.0))


def test_token_wise_norms_are_undone(tmp_path: Path) -> None:
    folder, config = later(tmp_path, norm_activation="token-wise")
    s = math.sqrt(D_IN) / inputs().norm(dim=1, keepdim=True)
    assert agrees(sae.load(folder), original_later(config, inputs(), s, s))


def test_a_transcoder_is_scaled_by_another_factor_on_either_side(tmp_path: Path) -> None:
    norms = average_norms(site=9.0, other=2.5)
    folder, config = later(tmp_path, norms, hook_point_out=OTHER)
    loaded = sae.load(folder)
    assert agrees(loaded, original_later(config, inputs(), S, math.sqrt(D_IN) / 2.5))
    assert loaded.provenance.to_metadata() == {"hook_name": SITE, "hook_name_out": OTHER}


def test_a_dictionary_without_a_decoder_bias_is_one(tmp_path: Path) -> None:
    folder, config = later(tmp_path, average_norms(site=9.0), use_decoder_bias=False)
    tensors = as_matrices(linear_layers()) | average_norms(site=9.0)
    tensors[LOG_THRESHOLD] = log_threshold()
    del tensors["b_D"]
    save_file(tensors, folder / "sae_weights.safetensors")
    acts, x_hat = original_later(config, inputs(), S, S)
    assert agrees(sae.load(folder), (acts, x_hat - linear_layers()["decoder.bias"] / S))


def test_r1_distill_takes_its_factor_from_whoever_loads_it(tmp_path: Path) -> None:
    folder, config = r1_distill(tmp_path)
    assert agrees(sae.load(folder, norm_scaling_factor=S), original_later(config, inputs(), S, S))


def test_r1_distill_is_not_loaded_without_a_factor(tmp_path: Path) -> None:
    folder, _ = r1_distill(tmp_path)
    assert "give norm_scaling_factor, sqrt(d_model) over the mean norm" in refusal(folder)


def test_a_transcoder_is_not_loaded_with_one_factor_of_two(tmp_path: Path) -> None:
    folder, _ = r1_distill(tmp_path, hook_point_out=OTHER)
    assert "both factors are needed" in refusal(folder, norm_scaling_factor=S)


@pytest.mark.parametrize("hook_point_out", [SITE, OTHER])
def test_a_decoder_bias_that_is_subtracted_first_is_in_normalised_units(
    tmp_path: Path, hook_point_out: str
) -> None:
    config = later_config(apply_decoder_bias_to_pre_encoder=True, hook_point_out=hook_point_out)
    tensors = linear_layers() | {"log_jumprelu_threshold": log_threshold()}
    norms = {"site": 9.0} if hook_point_out == SITE else {"site": 9.0, "other": 2.5}
    tensors |= average_norms(**norms)
    write(tmp_path, config, tensors, "sae_weights.safetensors", "config.json")
    s_out = S if hook_point_out == SITE else math.sqrt(D_IN) / 2.5
    assert agrees(sae.load(tmp_path), original_later(config, inputs(), S, s_out))


def test_metadata_says_the_site_and_nothing_that_the_files_do_not_say(tmp_path: Path) -> None:
    assert sae.load(r1_distill(tmp_path)[0], norm_scaling_factor=S).provenance.to_metadata() == {
        "hook_name": SITE
    }
