"""OpenMOSS' dictionaries compute here what the programs of their authors compute."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sae

D_IN, D_SAE = 8, 32
SITE, OTHER = "blocks.15.hook_resid_post", "blocks.15.hook_mlp_out"
NORMS = {"in": 9.0, "out": 9.0}
LOG_THRESHOLD = "activation_function.log_jumprelu_threshold"

Forward = tuple[Tensor, Tensor]


def inputs() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(64, D_IN, generator=generator) + 3 * torch.arange(D_IN).cos()


def linear_layers() -> dict[str, Tensor]:
    """Weights whose decoder rows have norms between 0.2 and 3, with biases that are not zero."""
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(D_IN, D_SAE, generator=generator)
    decoder *= torch.linspace(0.2, 3, D_SAE) / decoder.norm(dim=0)
    return {
        "encoder.weight": torch.randn(D_SAE, D_IN, generator=generator) / 2,
        "encoder.bias": torch.randn(D_SAE, generator=generator) / 2,
        "decoder.weight": decoder,
        "decoder.bias": torch.randn(D_IN, generator=generator),
    }


def as_matrices(layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as the current program names and stores them."""
    return {
        "W_E": layers["encoder.weight"].T.contiguous(),
        "W_D": layers["decoder.weight"].T.contiguous(),
        "b_E": layers["encoder.bias"],
        "b_D": layers["decoder.bias"],
    }


def write(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], weights: str, name: str
) -> Path:
    (folder / weights).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(config))
    if weights.endswith(".pt"):
        torch.save({"sae": tensors, "version": "1"}, folder / weights)
    else:
        save_file(tensors, folder / weights)
    return folder


def agrees(loaded: sae.SAE[Any], original: Forward, x: Tensor | None = None) -> None:
    x = inputs() if x is None else x
    acts, x_hat = original
    assert 0.02 < (acts != 0).double().mean() < 0.98, "the comparison says nothing"
    assert torch.equal(loaded.encode(x) != 0, acts != 0)
    assert torch.allclose(loaded.encode(x), acts, rtol=1e-5, atol=1e-5 * float(acts.abs().max()))
    assert torch.allclose(loaded(x), x_hat, rtol=1e-5, atol=1e-5 * float(x_hat.abs().max()))


def refusal(folder: Path, **hints: Any) -> str:
    with pytest.raises(sae.InputError) as raised:
        sae.load(folder, **hints)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Llama Scope, December 2024 ----------------------------------------------------------------------


def llama_scope_config(**changes: Any) -> dict[str, Any]:
    return {
        **{"device": "cuda", "seed": 42, "dtype": "torch.bfloat16"},
        **{"hook_point_in": SITE, "hook_point_out": SITE, "d_model": D_IN, "d_sae": D_SAE},
        **{"expansion_factor": D_SAE // D_IN, "bias_init_method": "all_zero", "top_k": 4},
        **{"act_fn": "jumprelu", "jump_relu_threshold": 0.6, "norm_activation": "dataset-wise"},
        **{"dataset_average_activation_norm": NORMS, "sparsity_include_decoder_norm": True},
        **{"use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False},
        **{"use_glu_encoder": False, "lp": 1, "l1_coefficient": 8e-5, "tp_size": 1},
        **changes,
    }


def llama_scope(
    folder: Path, layers: dict[str, Tensor] | None = None, **changes: Any
) -> tuple[Path, dict[str, Any]]:
    config = llama_scope_config(**changes)
    weights = "checkpoints/final.safetensors"
    return write(folder, config, layers or linear_layers(), weights, "hyperparams.json"), config


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
    agrees(sae.load(folder), original_llama_scope(config, inputs()))


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
    agrees(sae.load(folder), original_llama_scope(config, inputs()))


def test_a_topk_with_a_threshold_is_for_its_user_to_decide(tmp_path: Path) -> None:
    """The program says that it converts it to a jumprelu, and goes on to choose the k largest."""
    folder, config = llama_scope(tmp_path, act_fn="topk", jump_relu_threshold=0.6)
    assert "set act_fn to jumprelu, or the threshold to 0" in refusal(folder)
    (folder / "hyperparams.json").write_text(json.dumps(config | {"act_fn": "jumprelu"}))
    agrees(sae.load(folder), original_llama_scope(config, inputs()))


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
    agrees(sae.load(tmp_path), original_llama_scope(config, inputs()))


def test_pruned_weights_count_before_final_ones(tmp_path: Path) -> None:
    folder, config = llama_scope(tmp_path)
    other = {name: -tensor for name, tensor in linear_layers().items()}
    save_file(other, folder / "checkpoints" / "final.safetensors")
    torch.save({"sae": linear_layers()}, folder / "checkpoints" / "pruned.pt")
    agrees(sae.load(folder), original_llama_scope(config, inputs()))


def test_weights_in_bfloat16_are_computed_with_in_float32(tmp_path: Path) -> None:
    layers = {name: tensor.bfloat16() for name, tensor in linear_layers().items()}
    folder, _ = llama_scope(tmp_path, layers, act_fn="relu", norm_activation="inference")
    loaded = sae.load(folder)
    assert loaded.dtype == torch.float32
    rounded = {name: tensor.float() for name, tensor in layers.items()}
    acts = (inputs() @ rounded["encoder.weight"].T + rounded["encoder.bias"]).relu()
    x_hat = acts @ rounded["decoder.weight"].T + rounded["decoder.bias"]
    n = rounded["decoder.weight"].norm(dim=0)
    agrees(loaded, (acts * n, x_hat))


# R1-Distill and later, and the current program ---------------------------------------------------


def later_config(**changes: Any) -> dict[str, Any]:
    return {
        **{"sae_type": "sae", "hook_point_in": SITE, "hook_point_out": SITE, "d_model": D_IN},
        **{"expansion_factor": D_SAE / D_IN, "act_fn": "jumprelu", "top_k": 4},
        **{"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True},
        **{"use_decoder_bias": True, "jumprelu_threshold_window": 2.0, "use_triton_kernel": False},
        **changes,
    }


def log_threshold() -> Tensor:
    return torch.linspace(-2, 1, D_SAE)


def average_norms(**norms: float) -> dict[str, Tensor]:
    names = {"site": SITE, "other": OTHER}
    stem = "dataset_average_activation_norm"
    return {f"{stem}.{names[name]}": torch.tensor(norm) for name, norm in norms.items()}


def later(
    folder: Path, extra: dict[str, Tensor] | None = None, **changes: Any
) -> tuple[Path, dict[str, Any]]:
    """As the current program writes it."""
    config = later_config(**changes)
    tensors = as_matrices(linear_layers()) | (extra or {})
    if config["act_fn"] == "jumprelu":
        tensors[LOG_THRESHOLD] = log_threshold()
    return write(folder, config, tensors, "sae_weights.safetensors", "config.json"), config


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


S = math.sqrt(D_IN) / 9.0


@pytest.mark.parametrize("act_fn", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("by_norm", [True, False], ids=["by norm", "by value"])
def test_a_dictionary_of_the_current_program_has_the_features_of_the_original(
    tmp_path: Path, act_fn: str, by_norm: bool
) -> None:
    norms = average_norms(site=9.0)
    folder, config = later(tmp_path, norms, act_fn=act_fn, sparsity_include_decoder_norm=by_norm)
    agrees(sae.load(folder), original_later(config, inputs(), S, S))


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
    agrees(loaded, original_later(config, inputs(), S, S))


@pytest.mark.parametrize("garbage", [math.nan, 0.0, 123.0])
def test_norms_that_were_never_measured_are_not_used(tmp_path: Path, garbage: float) -> None:
    """The program writes memory that nobody filled where activations are not normalised."""
    folder, config = later(tmp_path, average_norms(site=garbage), norm_activation="inference")
    agrees(sae.load(folder), original_later(config, inputs(), 1.0, 1.0))


def test_token_wise_norms_are_undone(tmp_path: Path) -> None:
    folder, config = later(tmp_path, norm_activation="token-wise")
    s = math.sqrt(D_IN) / inputs().norm(dim=1, keepdim=True)
    agrees(sae.load(folder), original_later(config, inputs(), s, s))


def test_a_transcoder_is_scaled_by_another_factor_on_either_side(tmp_path: Path) -> None:
    norms = average_norms(site=9.0, other=2.5)
    folder, config = later(tmp_path, norms, hook_point_out=OTHER)
    loaded = sae.load(folder)
    agrees(loaded, original_later(config, inputs(), S, math.sqrt(D_IN) / 2.5))
    assert loaded.metadata == {"hook_name": SITE, "hook_name_out": OTHER}


def test_a_dictionary_without_a_decoder_bias_is_one(tmp_path: Path) -> None:
    folder, config = later(tmp_path, average_norms(site=9.0), use_decoder_bias=False)
    tensors = as_matrices(linear_layers()) | average_norms(site=9.0)
    tensors[LOG_THRESHOLD] = log_threshold()
    del tensors["b_D"]
    save_file(tensors, folder / "sae_weights.safetensors")
    acts, x_hat = original_later(config, inputs(), S, S)
    agrees(sae.load(folder), (acts, x_hat - linear_layers()["decoder.bias"] / S))


def r1_distill(folder: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    config = later_config(**changes)
    tensors = linear_layers() | {"log_jumprelu_threshold": log_threshold()}
    return write(folder, config, tensors, "sae_weights.safetensors", "config.json"), config


def test_r1_distill_takes_its_factor_from_whoever_loads_it(tmp_path: Path) -> None:
    folder, config = r1_distill(tmp_path)
    agrees(sae.load(folder, norm_scaling_factor=S), original_later(config, inputs(), S, S))


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
    agrees(sae.load(tmp_path), original_later(config, inputs(), S, s_out))


def test_metadata_says_the_site_and_nothing_that_the_files_do_not_say(tmp_path: Path) -> None:
    assert sae.load(r1_distill(tmp_path)[0], norm_scaling_factor=S).metadata == {"hook_name": SITE}


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("lorsa", "attention over the sequence"),
        ("clt", "cross-layer"),
        ("crosscoder", "several sites"),
        ("molt", "features are matrices"),
        ("mixcoder", "several modalities"),
    ],
)
def test_what_is_no_dictionary_of_one_site_is_refused_by_name(
    tmp_path: Path, kind: str, reason: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"sae_type": kind, "d_model": D_IN}))
    save_file({"W_Q": torch.zeros(1)}, tmp_path / "sae_weights.safetensors")
    message = refusal(tmp_path)
    assert f'"{kind}"' in message and reason in message


Prepare = Callable[[Path], tuple[Path, dict[str, Any]]]


def later_with(**changes: Any) -> Prepare:
    return lambda folder: later(folder, average_norms(site=9.0), **changes)


def scope_with(**changes: Any) -> Prepare:
    return lambda folder: llama_scope(folder, **changes)


REFUSED: dict[str, tuple[Prepare, str]] = {
    "a GLU encoder": (later_with(use_glu_encoder=True), "use_glu_encoder true.*two encoders"),
    "a GLU encoder of 2024": (scope_with(use_glu_encoder=True), "use_glu_encoder true"),
    "batchtopk": (later_with(act_fn="batchtopk"), '"batchtopk".*other tokens of its batch'),
    "layertopk": (later_with(act_fn="layertopk"), '"layertopk", which cannot be loaded'),
    "gelu": (scope_with(act_fn="gelu"), 'act_fn "gelu", which cannot be loaded'),
    "batch-wise norms": (later_with(norm_activation="batch-wise"), "other tokens of a batch"),
    "unknown norms": (scope_with(norm_activation="magic"), '"magic".*not known'),
    "token-wise norms of a transcoder": (
        later_with(norm_activation="token-wise", hook_point_out=OTHER),
        "norm of what it predicts",
    ),
    "an unknown key": (later_with(magic=1), "unknown keys magic"),
    "an unknown key of 2024": (scope_with(magic=1), "unknown keys magic"),
    "a negative threshold": (scope_with(jump_relu_threshold=-1.0), "jump_relu_threshold -1.0"),
    "k above d_sae": (later_with(act_fn="topk", top_k=33), r"k must be in 1..d_sae \(32\), got 33"),
    "k of 4.5": (later_with(act_fn="topk", top_k=4.5), "4.5 for top_k, expected int"),
    "another width": (scope_with(d_model=9), r"W_enc is of shape \(8, 32\), expected \(9, 32\)"),
    "10**15 features": (scope_with(d_sae=10**15), r"\(8, 32\), expected \(8, 1000000000000000\)"),
    "a width of 400 digits": (later_with(d_model=10**400), "for d_model, expected int"),
    "a threshold above float32": (scope_with(jump_relu_threshold=1e300), "1e[+]300 for jump_relu"),
    "NaN features": (later_with(expansion_factor=math.nan), "NaN for expansion_factor"),
    "norms of zero": (
        scope_with(dataset_average_activation_norm={"in": 0, "out": 9.0}),
        "0 for the mean norm",
    ),
    "norms that are not there": (
        scope_with(dataset_average_activation_norm=None),
        "no dataset_average_activation_norm.*give norm_scaling_factor",
    ),
    "true for a threshold": (scope_with(jump_relu_threshold=True), "true for jump_relu_threshold"),
    "an unknown kind": (later_with(sae_type="magic"), 'sae_type "magic".*not known'),
}


@pytest.mark.parametrize(("prepare", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_had_exactly_is_refused(tmp_path: Path, prepare: Prepare, says: str) -> None:
    folder, _ = prepare(tmp_path)
    with pytest.raises(sae.InputError, match=says) as raised:
        sae.load(folder)
    assert "\n" not in str(raised.value)


def test_a_factor_that_the_file_has_itself_is_not_given_again(tmp_path: Path) -> None:
    folder, _ = later(tmp_path, average_norms(site=9.0))
    assert "leave it out" in refusal(folder, norm_scaling_factor=S)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_scales_nothing_is_refused(tmp_path: Path, factor: float) -> None:
    folder, _ = r1_distill(tmp_path)
    assert "must be a number above 0" in refusal(folder, norm_scaling_factor=factor)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "hyperparams.json").write_text(json.dumps(llama_scope_config()))
    assert "no weights" in refusal(tmp_path) and "final.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["encoder.weight", "decoder.weight", "encoder.bias"])
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    layers = linear_layers()
    del layers[name]
    assert f"lacks the tensor {name}" in refusal(llama_scope(tmp_path, layers)[0])


def test_a_tensor_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    folder, _ = later(tmp_path, average_norms(site=9.0) | {"magic": torch.zeros(1)})
    assert "holds magic, which this layout does not have" in refusal(folder)


def test_a_transcoder_without_the_norm_of_its_output_is_refused(tmp_path: Path) -> None:
    folder, _ = later(tmp_path, average_norms(site=9.0), hook_point_out=OTHER)
    assert "for the mean norm of activations" in refusal(folder)
