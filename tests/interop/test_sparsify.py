"""Dictionaries of EleutherAI's sparsify compute here what its own class computes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import sae
from sae.architectures import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
)
from sae.base import SAE
from sae.interop import PretrainedConfig, PretrainedSAE, export

D_IN, D_SAE, K = 8, 32, 4
CONFIG: dict[str, Any] = {
    **{"activation": "topk", "expansion_factor": 4, "normalize_decoder": True, "num_latents": 0},
    **{"k": K, "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D_IN},
}
RUN = {
    **{"sae": {}, "model": "openai-community/gpt2", "dataset": "some/texts", "ctx_len": 256},
    "hookpoints": ["h.3", "h.3.mlp", "ln_f"],
}

State = dict[str, Tensor]


def inputs(scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(64, D_IN, generator=generator) + 3 * torch.arange(D_IN).cos()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def state(seed: int = 0, *, skip: bool = False) -> State:
    """Weights whose decoder rows have norms between 0.2 and 3."""
    W_dec = random(D_SAE, D_IN, seed=seed)
    W_dec *= torch.linspace(0.2, 3, D_SAE)[:, None] / W_dec.norm(dim=1, keepdim=True)
    tensors = {
        "encoder.weight": random(D_SAE, D_IN, seed=seed + 7) / 2,
        "encoder.bias": random(D_SAE, seed=seed),
        "W_dec": W_dec,
        "b_dec": random(D_IN, seed=seed),
    }
    return tensors | ({"W_skip": random(D_IN, D_IN, seed=seed)} if skip else {})


def original(config: dict[str, Any], of: State, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and reconstruction by the mathematics of the package."""
    centred = x if config["transcode"] else x - of["b_dec"]
    pre = (centred @ of["encoder.weight"].T + of["encoder.bias"]).relu()
    if config["activation"] == "topk":
        values, indices = pre.topk(config["k"], dim=1)
    else:
        values, indices = pre.unflatten(1, (config["k"], -1)).max(dim=2)
        indices = indices + torch.arange(config["k"]) * (pre.shape[1] // config["k"])
    x_hat = (values[:, :, None] * of["W_dec"][indices]).sum(dim=1) + of["b_dec"]
    if "W_skip" in of:
        x_hat = x_hat + x @ of["W_skip"].T
    return torch.zeros_like(pre).scatter(1, indices, values), x_hat


def write(folder: Path, tensors: State, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def check_same(ours: SAE, acts: Tensor, x_hat: Tensor, x: Tensor) -> None:
    found = ours.encode(x)
    assert 0 < (acts != 0).sum() < acts.numel()
    assert torch.equal(found != 0, acts != 0)
    assert (found - acts).abs().max() <= 1e-5 * acts.abs().max().clamp_min(1)
    assert (ours(x) - x_hat).abs().max() <= 1e-5 * x_hat.abs().max()


# Reading -----------------------------------------------------------------------------------------


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
    assert ours.metadata["model_name"] == model


def test_the_metadata_are_what_the_run_says(tmp_path: Path) -> None:
    folder = write(tmp_path / "h.3", state())
    (tmp_path / "config.json").write_text(json.dumps(RUN))
    assert sae.load(folder).metadata == {
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
    assert sae.load(folder).metadata == metadata


def test_of_a_transcoder_the_module_says_where_the_output_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "h.3.mlp", state(), transcode=True)
    (tmp_path / "config.json").write_text(json.dumps(RUN))
    ours = sae.load(folder)
    assert ours.hook_name is None
    assert ours.metadata["hook_name_out"] == "blocks.3.hook_mlp_out"


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation": "batchtopk"}, 'unknown activation "batchtopk": known are topk, groupmax'),
        ({"signed": True}, "says signed true"),
        ({"rotation": 1}, "unknown keys: rotation: what the dictionary computes is not known"),
        ({"k": None}, "has null for k"),
        ({"k": 4.0}, "has 4.0 for k"),
        ({"k": True}, "has true for k"),
        ({"k": D_SAE + 1}, r"k must be in 1..d_sae \(32\), got 33"),
        ({"k": 5, "activation": "groupmax"}, "cannot be split into 5 equal groups"),
        ({"num_latents": 16}, "says 16 latents of width 8, and sae.safetensors holds 32 of width"),
        ({"expansion_factor": 5}, "says 40 latents of width 8"),
        ({"d_in": 16, "num_latents": 32}, "says 32 latents of width 16"),
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
        ({"W_dec": torch.zeros(3)}, r"W_dec in .* is of shape \(3,\), and must be a matrix"),
        ({"W_dec": torch.zeros(D_IN, D_SAE)}, "says 32 latents of width 8, and .* 8 of width 32"),
        ({"encoder.bias": torch.zeros(31)}, "do not fit together"),
        ({"b_dec": torch.full((D_IN,), torch.inf)}, "b_dec in .* holds NaN or Inf"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, tensors: State, message: str) -> None:
    with pytest.raises(sae.InputError, match=message):
        sae.load(write(tmp_path, {**state(), **tensors}))


# Writing -----------------------------------------------------------------------------------------

METADATA = {
    **{"model_name": "gpt2", "hook_name": "blocks.3.hook_resid_pre", "prepend_bos": True},
    "processing": "centred",
}


@torch.no_grad()
def trained(*, tied: bool = False) -> SAE:
    """One of ours as training may leave it: unit decoder rows, and all else at random."""
    ours = TopKConfig(d_sae=D_SAE, k=K, tied=tied).build(D_IN, seed=0)
    for i, (name, parameter) in enumerate(ours.named_parameters()):
        if name != "W_dec":
            parameter.copy_(random(*parameter.shape, seed=i))
    ours.metadata = dict(METADATA)
    return ours


def foreign(
    activation: Any = "topk",
    *,
    subtracts_b_dec: bool = True,
    skip: bool = False,
    seed: int = 0,
    metadata: dict[str, Any] | None = None,
    **more: Any,
) -> PretrainedSAE:
    of = state(seed, skip=skip)
    tensors = {
        **{"W_enc": of["encoder.weight"].T, "b_enc": of["encoder.bias"]},
        **{"W_dec": of["W_dec"], "b_dec": of["b_dec"]},
    }
    if skip:
        tensors["W_skip"] = of["W_skip"].T
    cfg = PretrainedConfig(
        d_sae=D_SAE, activation=activation, k=K, subtracts_b_dec=subtracts_b_dec, **more
    )
    return PretrainedSAE(cfg, tensors, metadata)


def check_written(ours: SAE, folder: Path, x: Tensor) -> dict[str, Any]:
    """Both by the mathematics of the package, and read again. The config that was written."""
    export(ours, folder, to="sparsify")
    config = json.loads((folder / "cfg.json").read_text())
    tensors = load_file(folder / "sae.safetensors")
    acts, x_hat = original(config, tensors, x)
    assert torch.allclose(acts, ours.encode(x), atol=1e-5)
    assert torch.equal(acts != 0, ours.encode(x) != 0)
    assert torch.allclose(x_hat, ours(x), rtol=1e-5, atol=3e-5)
    check_same(sae.load(folder), acts, x_hat, x)
    return config


@pytest.mark.parametrize("tied", [False, True])
def test_ours_is_written_so_that_the_package_computes_the_same(tmp_path: Path, tied: bool) -> None:
    config = check_written(trained(tied=tied), tmp_path, inputs())
    assert config == {**CONFIG, "num_latents": D_SAE, "metadata": METADATA}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cfg.json", "sae.safetensors"]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("subtracts_b_dec", [False, True])
@pytest.mark.parametrize("out", [None, "blocks.3.hook_mlp_out"])
@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_one_of_another_project_is_written_with_its_bias_folded(
    tmp_path: Path, activation: str, out: str | None, subtracts_b_dec: bool, skip: bool
) -> None:
    """An autoencoder of theirs subtracts b_dec, and a transcoder does not."""
    metadata = {"hook_name_out": out} if out else {}
    ours = foreign(activation, subtracts_b_dec=subtracts_b_dec, skip=skip, metadata=metadata)
    config = check_written(ours, tmp_path, inputs())
    assert config["transcode"] == (out is not None)
    assert config["skip_connection"] == skip
    assert config["normalize_decoder"] is False


def test_metadata_come_back_though_the_layout_has_no_place_for_them(tmp_path: Path) -> None:
    """They count more than the folder, which whoever wrote it chose."""
    export(trained(), tmp_path / "h.7", to="sparsify")
    assert sae.load(tmp_path / "h.7").metadata.items() >= METADATA.items()


def test_norms_that_are_equal_but_for_rounding_do_not_change_who_wins(tmp_path: Path) -> None:
    ours = foreign(selects_by_decoder_norm=True)
    with torch.no_grad():
        ours.constrain_()
    check_written(ours, tmp_path, inputs())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReLUConfig(d_sae=D_SAE).build(D_IN), "activation relu, only topk, groupmax"),
        (lambda: JumpReLUConfig(d_sae=D_SAE).build(D_IN), "activation jumprelu, only topk"),
        (lambda: BatchTopKConfig(d_sae=D_SAE, k=K).build(D_IN), "activation jumprelu"),
        (lambda: MatryoshkaConfig(d_sae=D_SAE, k=K).build(D_IN), "activation jumprelu"),
        (lambda: GatedConfig(d_sae=D_SAE).build(D_IN), "activation gated"),
        (lambda: foreign(normalization="layer_norm"), "the layer_norm of its inputs"),
        (lambda: foreign(keeps_negative=True), "features that keep negative values"),
        (lambda: foreign(selects_by_decoder_norm=True), "the norms of their decoder rows"),
        (lambda: foreign("abs_topk"), "the activation abs_topk"),
    ],
)
def test_what_the_package_would_compute_otherwise_is_not_written(
    tmp_path: Path, make: Callable[[], SAE], message: str
) -> None:
    with pytest.raises(sae.InputError, match=f"sparsify files cannot express .*{message}"):
        export(make(), tmp_path / "out", to="sparsify")
    assert not (tmp_path / "out").exists()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["topk", "groupmax"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
    st.floats(0.1, 100),
)
def test_writing_and_reading_changes_nothing_that_is_computed(
    tmp_path_factory: pytest.TempPathFactory,
    activation: str,
    subtracts_b_dec: bool,
    skip: bool,
    seed: int,
    scale: float,
) -> None:
    ours = foreign(activation, subtracts_b_dec=subtracts_b_dec, skip=skip, seed=seed)
    folder = tmp_path_factory.mktemp("written")
    export(ours, folder, to="sparsify")
    again, x = sae.load(folder), inputs(scale)
    size = ours.encode(x).abs().max().clamp_min(scale)
    assert (again.encode(x) - ours.encode(x)).abs().max() <= 1e-5 * size
    assert (again(x) - ours(x)).abs().max() <= 1e-5 * size * D_IN
