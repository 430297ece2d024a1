"""Llama Scope of December 2024 computes here what the program of that time computes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from openmoss_files import (
    D_IN,
    D_SAE,
    NORMS,
    OTHER,
    Forward,
    agrees,
    inputs,
    linear_layers,
    llama_scope,
    llama_scope_config,
    refusal,
    write,
)
from safetensors.torch import save_file
from torch import Tensor

import sae


def original_llama_scope(config: dict[str, Any], x: Tensor) -> Forward:
    """What the program of December 2024 makes of these weights, in its order."""
    weights = {name: tensor.clone() for name, tensor in linear_layers().items()}
    if not config["use_decoder_bias"]:
        weights["decoder.bias"].zero_()
    token_scale = torch.ones(())
    if config["norm_activation"] == "dataset-wise":
        norms = config["dataset_average_activation_norm"]
        s_in, s_out = math.sqrt(D_IN) / norms["in"], math.sqrt(D_IN) / norms["out"]
        weights["encoder.bias"] /= s_in
        weights["decoder.bias"] /= s_out
        weights["decoder.weight"] *= s_in / s_out
    elif config["norm_activation"] == "token-wise":
        token_scale = math.sqrt(D_IN) / x.norm(dim=1, keepdim=True)
    if config["sparsity_include_decoder_norm"]:
        n = weights["decoder.weight"].norm(dim=0)
        weights["decoder.weight"] /= n
        weights["encoder.weight"] *= n[:, None]
        weights["encoder.bias"] *= n
    z = x * token_scale
    if config.get("apply_decoder_bias_to_pre_encoder", True):
        z = z - weights["decoder.bias"]
    h = z @ weights["encoder.weight"].T + weights["encoder.bias"]
    if config["act_fn"] == "jumprelu" or config["jump_relu_threshold"] > 0:
        acts = torch.where(h > config["jump_relu_threshold"], h, 0.0)
    else:
        acts = h.clamp(min=0)
    if config["act_fn"] == "topk" and config["jump_relu_threshold"] == 0:
        n = weights["decoder.weight"].norm(dim=0)
        kept = ((acts * n) if config["sparsity_include_decoder_norm"] else acts).topk(4).indices
        acts = torch.zeros_like(acts).scatter(1, kept, acts.gather(1, kept))
    x_hat = acts @ weights["decoder.weight"].T + weights["decoder.bias"]
    return acts, x_hat / token_scale


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sparsity_include_decoder_norm": False},
        {"apply_decoder_bias_to_pre_encoder": True},
        {"use_decoder_bias": False, "apply_decoder_bias_to_pre_encoder": True},
        {"norm_activation": "inference"},
        {"norm_activation": "token-wise", "apply_decoder_bias_to_pre_encoder": True},
        {"act_fn": "relu"},
        {"act_fn": "topk", "jump_relu_threshold": 0.0},
        {"act_fn": "topk", "jump_relu_threshold": 0},
        {
            "act_fn": "topk",
            "jump_relu_threshold": 0.0,
            "sparsity_include_decoder_norm": False,
        },
        {
            "hook_point_out": OTHER,
            "dataset_average_activation_norm": {"in": 9.0, "out": 2.5},
        },
        {
            "hook_point_out": OTHER,
            "dataset_average_activation_norm": {"in": 9.0, "out": 2.5},
            "apply_decoder_bias_to_pre_encoder": True,
        },
    ],
    ids=str,
)
def test_llama_scope_has_the_features_of_the_original(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder, config = llama_scope(tmp_path, **changes)
    if config["act_fn"] == "relu":
        config["jump_relu_threshold"] = 0.0
    layers = linear_layers()
    if not config["use_decoder_bias"]:
        del layers["decoder.bias"]
        save_file(layers, folder / "checkpoints" / "final.safetensors")
    assert agrees(sae.load(folder), original_llama_scope(config, inputs()))


def test_the_threshold_of_llama_scope_is_divided_by_the_norm_of_each_decoder_row(
    tmp_path: Path,
) -> None:
    """In the units of the stored weights it is t s / n; with t s, which others use, it is wrong."""
    folder, config = llama_scope(tmp_path)
    x, layers, s = inputs(), linear_layers(), math.sqrt(D_IN) / NORMS["in"]
    acts, x_hat = original_llama_scope(config, x)
    n = layers["decoder.weight"].norm(dim=0)

    def by_threshold(threshold: Tensor) -> Forward:
        h = s * x @ layers["encoder.weight"].T + layers["encoder.bias"]
        stored = h.relu() * (h > threshold)
        return stored, (stored @ layers["decoder.weight"].T + layers["decoder.bias"]) / s

    without_norms = by_threshold(torch.full((D_SAE,), config["jump_relu_threshold"] * s))
    with_norms = by_threshold(config["jump_relu_threshold"] * s / n)
    assert ((without_norms[0] > 0) == (acts > 0)).double().mean() < 0.99
    assert (without_norms[1] - x_hat).abs().max() > 0.5
    assert torch.equal(with_norms[0] > 0, acts > 0)
    assert (with_norms[1] - x_hat).abs().max() < 1e-4
    assert torch.allclose(sae.load(folder).encode(x), with_norms[0] * n / s, atol=1e-4)


def test_a_feature_at_the_threshold_is_not_active(tmp_path: Path) -> None:
    layers = {name: torch.zeros_like(tensor) for name, tensor in linear_layers().items()}
    layers["encoder.weight"][0, 0] = 1.0
    layers["decoder.weight"][0] = 1.0
    folder, _ = llama_scope(tmp_path, layers, jump_relu_threshold=0.5, norm_activation="inference")
    x = torch.zeros(2, D_IN)
    x[:, 0] = torch.tensor([0.5, 0.75])
    assert sae.load(folder).encode(x)[:, 0].tolist() == [0.0, 0.75]


def test_a_decoder_row_of_zeros_is_no_division_by_zero(tmp_path: Path) -> None:
    layers = linear_layers()
    layers["decoder.weight"][:, 3] = 0
    folder, _ = llama_scope(tmp_path, layers)
    loaded = sae.load(folder)
    assert not loaded.encode(inputs())[:, 3].any()
    assert torch.isfinite(loaded(inputs())).all()


def test_b_dec_is_subtracted_where_the_config_does_not_say(tmp_path: Path) -> None:
    folder, config = llama_scope(tmp_path)
    del config["apply_decoder_bias_to_pre_encoder"]
    (folder / "hyperparams.json").write_text(json.dumps(config))
    assert agrees(sae.load(folder), original_llama_scope(config, inputs()))


def test_a_topk_with_a_threshold_is_for_its_user_to_decide(tmp_path: Path) -> None:
    """The program says that it converts it to a jumprelu, and goes on to choose the k largest."""
    folder, config = llama_scope(tmp_path, act_fn="topk", jump_relu_threshold=0.6)
    assert "set act_fn to jumprelu, or the threshold to 0" in refusal(folder)
    (folder / "hyperparams.json").write_text(json.dumps(config | {"act_fn": "jumprelu"}))
    assert agrees(sae.load(folder), original_llama_scope(config, inputs()))


@pytest.mark.parametrize(
    "weights",
    [
        *("sae_weights.safetensors", "sae_weights.pt", "checkpoints/pruned.safetensors"),
        *("checkpoints/pruned.pt", "checkpoints/final.safetensors", "checkpoints/final.pt"),
    ],
)
def test_weights_may_lie_in_six_places(tmp_path: Path, weights: str) -> None:
    config = llama_scope_config()
    write(tmp_path, config, linear_layers(), weights, "hyperparams.json")
    assert agrees(sae.load(tmp_path), original_llama_scope(config, inputs()))


def test_pruned_weights_count_before_final_ones(tmp_path: Path) -> None:
    folder, config = llama_scope(tmp_path)
    other = {name: -tensor for name, tensor in linear_layers().items()}
    save_file(other, folder / "checkpoints" / "final.safetensors")
    torch.save({"sae": linear_layers()}, folder / "checkpoints" / "pruned.pt")
    assert agrees(sae.load(folder), original_llama_scope(config, inputs()))


def test_weights_in_bfloat16_are_computed_with_in_float32(tmp_path: Path) -> None:
    layers = {name: tensor.bfloat16() for name, tensor in linear_layers().items()}
    folder, _ = llama_scope(tmp_path, layers, act_fn="relu", norm_activation="inference")
    loaded = sae.load(folder)
    assert loaded.dtype == torch.float32
    rounded = {name: tensor.float() for name, tensor in layers.items()}
    acts = (inputs() @ rounded["encoder.weight"].T + rounded["encoder.bias"]).relu()
    x_hat = acts @ rounded["decoder.weight"].T + rounded["decoder.bias"]
    n = rounded["decoder.weight"].norm(dim=0)
    assert agrees(loaded, (acts * n, x_hat))
