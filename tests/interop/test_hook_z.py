"""The attention dictionaries of Kissane and Krzyzanowski: NAME.pt and NAME_cfg.json."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pickles import malicious, put
from torch import Tensor

import sae

N_HEADS, D_HEAD, D_SAE = 2, 4, 32
NAME = "gpt2-small_L5_Hcat_z_lr1.20e-03_l11.00e+00_ds32_v9"


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _weights(**more: Any) -> dict[str, Any]:
    return {
        "W_enc": _randn(N_HEADS * D_HEAD, D_SAE, seed=1),
        "W_dec": 3 * _randn(D_SAE, N_HEADS * D_HEAD, seed=2),
        "b_enc": _randn(D_SAE, seed=3),
        "b_dec": _randn(N_HEADS * D_HEAD, seed=4),
        **more,
    }


def _config(**more: Any) -> dict[str, Any]:
    config = {
        "act_size": N_HEADS * D_HEAD,
        "dict_size": D_SAE,
        "act_name": "blocks.5.attn.hook_z",
        "model_name": "gpt2-small",
        "seq_len": 128,
        "lr": 1.2e-3,
        "enc_dtype": "fp32",
        **more,
    }
    return {key: value for key, value in config.items() if value is not None}


def _save(folder: Path, weights: dict[str, Any], config: dict[str, Any], name: str = NAME) -> Path:
    torch.save(weights, folder / f"{name}.pt")
    (folder / f"{name}_cfg.json").write_text(json.dumps(config))
    return folder / f"{name}.pt"


def test_features_and_reconstruction_are_the_original_s(tmp_path: Path) -> None:
    weights = _weights()
    path = _save(tmp_path, weights, _config())
    z = 2 * _randn(200, N_HEADS, D_HEAD, seed=5) + 9 * _randn(N_HEADS, D_HEAD, seed=6)
    flat = torch.cat([z[:, head] for head in range(N_HEADS)], dim=1)
    acts = ((flat - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    expected = acts @ weights["W_dec"] + weights["b_dec"]
    for ours in (sae.load(path), sae.load(tmp_path)):
        assert torch.equal(ours.encode(flat) > 0, acts > 0)
        assert torch.allclose(ours.encode(flat), acts, rtol=1e-5, atol=1e-4)
        assert torch.allclose(ours(flat), expected, rtol=1e-5, atol=1e-3)


def test_the_config_says_model_and_site(tmp_path: Path) -> None:
    _save(tmp_path, _weights(), _config())
    assert sae.load(tmp_path).provenance.to_metadata() == {
        "model_name": "gpt2",
        "hook_name": "blocks.5.attn.hook_z",
        "context_size": 128,
        "prepend_bos": True,
        "processing": "folded_value_biases",
    }


def test_a_model_that_is_not_named_is_not_guessed(tmp_path: Path) -> None:
    _save(tmp_path, _weights(), _config(model_name=None, seq_len=None))
    metadata = sae.load(tmp_path).provenance.to_metadata()
    assert "model_name" not in metadata
    assert metadata["context_size"] == 128


def test_a_folder_of_several_asks_for_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _save(tmp_path, _weights(), _config(), name)
    with pytest.raises(sae.InputError, match=r"holds a.pt, b.pt: name one of them"):
        sae.load(tmp_path)
    assert sae.load(tmp_path / "b.pt").d_sae == D_SAE


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        ({}, {"act_size": 9}, r"W_enc in .* is of shape \(8, 32\), expected \(9, 32\)"),
        ({}, {"dict_size": "32"}, "dict_size in .* must be a whole number .*, got '32'"),
        ({}, {"act_name": "blocks.5.hook_mlp_out"}, "has act_name 'blocks.5.hook_mlp_out'"),
        ({}, {"act_name": 5}, "act_name in .* must be a text, got 5"),
        ({"threshold": torch.ones(D_SAE)}, {}, "none of the layouts"),
        ({}, {"dict_size": None}, "none of the layouts"),
    ],
)
def test_what_cannot_be_had_is_refused(
    tmp_path: Path, weights: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    _save(tmp_path, _weights(**weights), _config(**config))
    with pytest.raises(sae.InputError, match=message) as refused:
        sae.load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["os.system", "as a member"])
def test_a_malicious_pickle_is_never_run(tmp_path: Path, name: str) -> None:
    put(_save(tmp_path, _weights(), _config()), malicious(tmp_path / "trace")[name])
    with pytest.raises(sae.InputError):
        sae.load(tmp_path)
    assert not (tmp_path / "trace").exists()
