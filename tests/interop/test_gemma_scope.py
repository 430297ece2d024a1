"""Gemma Scope (params.npz) and Gemma Scope 2 (params.safetensors and config.json)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sae

D_IN, D_OUT, D_SAE = 8, 6, 32


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _weights(d_out: int = D_IN, **more: Tensor) -> dict[str, Tensor]:
    return {
        "W_enc": _randn(D_IN, D_SAE, seed=1),
        "W_dec": 3 * _randn(D_SAE, d_out, seed=2),
        "b_enc": _randn(D_SAE, seed=3) - 20,
        "b_dec": 5 * _randn(d_out, seed=4),
        "threshold": torch.linspace(-1, 4, D_SAE),
        **more,
    }


def _data() -> Tensor:
    return 8 * _randn(300, D_IN, seed=5) + 9 * _randn(D_IN, seed=6)


def _original(weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """As Gemma Scope computes them: b_dec is not subtracted, and the threshold must be passed."""
    h = x @ weights["W_enc"] + weights["b_enc"]
    acts = torch.where(h > weights["threshold"], h.relu(), 0.0)
    x_hat = acts @ weights["W_dec"] + weights["b_dec"]
    if "affine_skip_connection" in weights:
        x_hat = x_hat + x @ weights["affine_skip_connection"]
    return acts, x_hat


def _assert_same(ours: sae.SAE, weights: dict[str, Tensor]) -> None:
    x = _data()
    acts, expected = _original(weights, x)
    assert 0.05 < (acts > 0).float().mean() < 0.95
    assert torch.equal(ours.encode(x) > 0, acts > 0)
    assert torch.allclose(ours.encode(x), acts, rtol=1e-5, atol=1e-5 * acts.max().item())
    assert torch.allclose(ours(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def _npz(folder: Path, weights: dict[str, Tensor], **names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {names.get(name, name): tensor.numpy() for name, tensor in weights.items()}
    np.savez(folder / "params.npz", **arrays)
    return folder


def _safetensors(folder: Path, weights: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name.lower(): it for name, it in weights.items()}, folder / "params.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


CONFIG = {
    "architecture": "jump_relu",
    "model_name": "gemma-v3-4b-pt",
    "hf_hook_point_in": "model.layers.17.output",
    "hf_hook_point_out": "model.layers.17.output",
    "width": D_SAE,
    "l0": 60,
    "affine_connection": False,
    "type": "sae",
}

# Gemma Scope -------------------------------------------------------------------------------------


def test_features_and_reconstruction_are_the_original_s(tmp_path: Path) -> None:
    _npz(tmp_path, _weights())
    _assert_same(sae.load(tmp_path), _weights())
    _assert_same(sae.load(tmp_path / "params.npz"), _weights())


def test_b_dec_is_not_subtracted_before_encoding(tmp_path: Path) -> None:
    ours = sae.load(_npz(tmp_path, _weights()))
    other = sae.load(_npz(tmp_path / "other", _weights(b_dec=torch.zeros(D_IN))))
    assert torch.equal(ours.encode(_data()), other.encode(_data()))


def test_a_pre_activation_at_the_threshold_is_no_feature(tmp_path: Path) -> None:
    weights = _weights(
        W_enc=torch.eye(D_IN, D_SAE), b_enc=torch.zeros(D_SAE), threshold=torch.full((D_SAE,), 2.0)
    )
    x = torch.tensor([[2.0, 2.5, -3.0, 0.0, 1.5, 3.0, 2.0, 2.0]])
    acts = sae.load(_npz(tmp_path, weights)).encode(x)
    assert acts[0, :8].tolist() == [0, 2.5, 0, 0, 0, 3, 0, 0]


def test_a_negative_threshold_lets_no_negative_feature_pass(tmp_path: Path) -> None:
    weights = _weights(threshold=torch.full((D_SAE,), -5.0))
    ours = sae.load(_npz(tmp_path, weights))
    _assert_same(ours, weights)
    assert ours.encode(_data()).min() == 0


@pytest.mark.parametrize(
    "names",
    [
        {"W_enc": "w_enc", "W_dec": "w_dec"},
        {"W_enc": "wenc", "W_dec": "wdec", "b_enc": "benc", "b_dec": "bdec"},
        {"W_enc": "W_E", "W_dec": "W_D", "b_enc": "b_E", "b_dec": "b_D"},
    ],
)
def test_names_may_be_of_upper_or_lower_case(tmp_path: Path, names: dict[str, str]) -> None:
    _assert_same(sae.load(_npz(tmp_path, _weights(), **names)), _weights())


def test_a_transcoder_may_write_another_width(tmp_path: Path) -> None:
    ours = sae.load(_npz(tmp_path, _weights(D_OUT)))
    assert (ours.d_in, ours(_data()).shape[1]) == (D_IN, D_OUT)
    _assert_same(ours, _weights(D_OUT))


@pytest.mark.parametrize(
    ("folder", "hooks", "model_name"),
    [
        ("2b-pt-res/layer_20", {"hook_name": "blocks.20.hook_resid_post"}, "google/gemma-2-2b"),
        ("9b-it-res/layer_9", {"hook_name": "blocks.9.hook_resid_post"}, "google/gemma-2-9b-it"),
        ("9b-pt-mlp/layer_0", {"hook_name": "blocks.0.hook_mlp_out"}, "google/gemma-2-9b"),
        ("27b-pt-att/layer_10", {"hook_name": "blocks.10.attn.hook_z"}, "google/gemma-2-27b"),
        (
            "2b-pt-transcoders/layer_5",
            {"hook_name": "blocks.5.ln2.hook_normalized", "hook_name_out": "blocks.5.hook_mlp_out"},
            "google/gemma-2-2b",
        ),
    ],
)
def test_the_folders_as_published_say_model_and_site(
    tmp_path: Path, folder: str, hooks: dict[str, str], model_name: str
) -> None:
    path = tmp_path / f"gemma-scope-{folder}" / "width_16k" / "average_l0_71"
    ours = sae.load(_npz(path, _weights()))
    assert ours.provenance.to_metadata() == {
        "model_name": model_name,
        "dataset_path": "monology/pile-uncopyrighted",
        "context_size": 1024,
        "prepend_bos": True,
        "processing": "raw",
        **hooks,
    }
    _assert_same(ours, _weights())


def test_the_cache_of_the_hub_names_the_release_too(tmp_path: Path) -> None:
    release = tmp_path / "models--google--gemma-scope-2b-pt-res" / "snapshots" / "0123abcd"
    path = release / "layer_3" / "width_16k" / "average_l0_71"
    assert sae.load(_npz(path, _weights())).hook_name == "blocks.3.hook_resid_post"


def test_files_elsewhere_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "layer_20" / "width_16k" / "average_l0_71"
    assert sae.load(_npz(path, _weights())).provenance.to_metadata() == {}


def test_an_embedding_dictionary_takes_embeddings_that_gemma_has_scaled(tmp_path: Path) -> None:
    """hook_embed is sqrt(d_in) times what the dictionary was trained on."""
    path = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    ours = sae.load(_npz(path, _weights()))
    assert ours.hook_name == "hook_embed"
    x, scale = _data(), D_IN**0.5
    acts, expected = _original(_weights(), x)
    assert torch.equal(ours.encode(scale * x) > 0, acts > 0)
    assert torch.allclose(ours.encode(scale * x), acts, rtol=1e-4, atol=1e-3)
    assert torch.allclose(ours(scale * x), scale * expected, rtol=1e-4, atol=1e-2)


def test_an_embedding_dictionary_that_cannot_be_known_as_one_is_read_as_it_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "embedding" / "width_4k" / "average_l0_6"
    _assert_same(sae.load(_npz(path, _weights())), _weights())


# Gemma Scope 2 -----------------------------------------------------------------------------------


def test_gemma_scope_2_has_the_same_mathematics(tmp_path: Path) -> None:
    _assert_same(sae.load(_safetensors(tmp_path, _weights(), **CONFIG)), _weights())


def test_gemma_scope_2_needs_no_config(tmp_path: Path) -> None:
    ours = sae.load(_safetensors(tmp_path, _weights()))
    _assert_same(ours, _weights())
    assert ours.provenance.to_metadata() == {}


@pytest.mark.parametrize("d_out", [D_IN, D_OUT])
def test_an_affine_skip_connection_is_added(tmp_path: Path, d_out: int) -> None:
    weights = _weights(d_out, affine_skip_connection=_randn(D_IN, d_out, seed=7))
    config = CONFIG | {"affine_connection": True, "type": "transcoder"}
    _assert_same(sae.load(_safetensors(tmp_path / "a", weights, **config)), weights)
    _assert_same(sae.load(_safetensors(tmp_path / "b", weights)), weights)


@pytest.mark.parametrize(
    ("module", "hook_name"),
    [
        ("model.layers.17.output", "blocks.17.hook_resid_post"),
        ("model.language_model.layers.17.output", "blocks.17.hook_resid_post"),
        ("model.layers.3.self_attn.o_proj.input", "blocks.3.attn.hook_z"),
        ("model.layers.3.post_feedforward_layernorm.output", "blocks.3.hook_mlp_out"),
        ("model.layers.3.mlp.up_proj.output", None),
    ],
)
def test_the_module_says_the_site_where_it_is_one_of_transformerlens(
    tmp_path: Path, module: str, hook_name: str | None
) -> None:
    config = CONFIG | {"hf_hook_point_in": module, "hf_hook_point_out": module}
    ours = sae.load(_safetensors(tmp_path, _weights(), **config))
    assert ours.hook_name == hook_name
    assert "hook_name_out" not in ours.provenance.to_metadata()
    assert ours.provenance.to_metadata()["hf_hook_point_in"] == module


def test_a_transcoder_says_what_it_writes(tmp_path: Path) -> None:
    layer = "model.layers.3."
    config = CONFIG | {
        "hf_hook_point_in": layer + "pre_feedforward_layernorm.output",
        "hf_hook_point_out": layer + "post_feedforward_layernorm.output",
        "type": "transcoder",
    }
    metadata = sae.load(_safetensors(tmp_path, _weights(), **config)).provenance.to_metadata()
    assert "hook_name" not in metadata  # TransformerLens' hook there is before the weights
    assert metadata["hook_name_out"] == "blocks.3.hook_mlp_out"


@pytest.mark.parametrize(
    ("said", "model_name"),
    [
        ("gemma-v3-4b-pt", "google/gemma-3-4b-pt"),
        ("google/gemma-3-1b-it", "google/gemma-3-1b-it"),
        ("gemma-v3-270m-pt", "google/gemma-3-270m"),
    ],
)
def test_the_model_is_called_as_on_the_hub(tmp_path: Path, said: str, model_name: str) -> None:
    ours = sae.load(_safetensors(tmp_path, _weights(), **CONFIG | {"model_name": said}))
    assert ours.provenance.to_metadata()["model_name"] == model_name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "topk"}, "has architecture 'topk': known are jump_relu"),
        ({"type": "crosscoder"}, "has type 'crosscoder': known are sae, transcoder"),
        ({"affine_connection": True}, "has affine_connection True, the weights do not"),
        ({"input_scale": 2.0}, "has unknown keys: input_scale"),
    ],
)
def test_a_config_that_says_otherwise_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    _safetensors(tmp_path, _weights(), **CONFIG | changes)
    with pytest.raises(sae.InputError, match=message) as refused:
        sae.load(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_cross_layer_transcoder_is_refused(tmp_path: Path) -> None:
    """Summed over the layers it would reconstruct none of them."""
    _safetensors(tmp_path, _weights(W_dec=_randn(D_SAE, 3, D_IN)))
    with pytest.raises(sae.InputError, match="cross-layer transcoder"):
        sae.load(tmp_path)


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"scaling_factor": torch.ones(D_SAE)}, "holds scaling_factor, which this layout"),
        ({"w_enc": torch.ones(D_IN, D_SAE)}, "which this layout does not have"),
        ({"threshold": torch.ones(())}, r"threshold in .* is of shape \(\)"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(
    tmp_path: Path, weights: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(sae.InputError, match=message):
        sae.load(_npz(tmp_path, _weights(**weights)))


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    class MakesFolder:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.mkdir, (trace,)

    arrays = {name: tensor.numpy() for name, tensor in _weights().items()}
    np.savez(tmp_path / "params.npz", **arrays | {"b_enc": np.array(MakesFolder(), dtype=object)})
    with pytest.raises(sae.InputError, match="is no array of numbers"):
        sae.load(tmp_path)
    assert not trace.exists()
