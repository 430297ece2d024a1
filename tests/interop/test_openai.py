"""OpenAI's sparse_autoencoder: ReLU of versions 1 and 4, TopK with layer norm of version 5."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from pickles import malicious, put
from torch import Tensor

import sae

D_IN, D_SAE, K = 8, 32, 5


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _state(**more: Any) -> dict[str, Any]:
    """A state dict as the original's `state_dict` has it; None takes an entry away."""
    state = OrderedDict(
        {
            "pre_bias": _randn(D_IN, seed=1),
            "latent_bias": _randn(D_SAE, seed=2),
            "stats_last_nonzero": torch.arange(D_SAE),
            "latents_activation_frequency": torch.ones(D_SAE),
            "latents_mean_square": torch.zeros(D_SAE),
            "encoder.weight": _randn(D_SAE, D_IN, seed=3),
            "decoder.weight": 3 * _randn(D_IN, D_SAE, seed=4),
            "activation": "ReLU",
            "activation_state_dict": OrderedDict(),
            **more,
        }
    )
    return OrderedDict((name, value) for name, value in state.items() if value is not None)


def _topk(after: str = "ReLU", k: Any = K, **more: Any) -> dict[str, Any]:
    return _state(
        activation="TopK",
        activation_state_dict=OrderedDict(k=k, postact_fn=after),
        **{"activation.k": k, "activation.postact_fn": after, **more},
    )


def _original(state: dict[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and reconstruction, as the original computes them."""
    mu, std = torch.zeros(()), torch.ones(())
    z = x
    if state.get("activation") == "TopK":
        mu = x.mean(dim=-1, keepdim=True)
        std = (x - mu).std(dim=-1, keepdim=True)
        z = (x - mu) / (std + 1e-5)
    h = (z - state["pre_bias"]) @ state["encoder.weight"].T + state["latent_bias"]
    if state.get("activation") == "TopK":
        best = h.topk(K, dim=-1)
        kept = best.values
        if state["activation_state_dict"]["postact_fn"] == "ReLU":
            kept = kept.relu()
        acts = torch.zeros_like(h).scatter(-1, best.indices, kept)
    else:
        acts = h.relu()
    W_dec = state.get("decoder.weight", state["encoder.weight"].T)
    return acts, (acts @ W_dec.T + state["pre_bias"]) * std + mu


def _data() -> Tensor:
    return 3 * _randn(200, D_IN, seed=5) + 20 * _randn(D_IN, seed=6) + 7


def _assert_same(path: Path, state: dict[str, Any]) -> sae.SAE:
    torch.save(state, path)
    ours, x = sae.load(path), _data()
    acts, expected = _original(state, x)
    assert torch.equal(ours.encode(x) != 0, acts != 0)
    assert torch.allclose(ours.encode(x), acts, rtol=1e-5, atol=1e-5 * acts.abs().max().item())
    assert torch.allclose(ours(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    return ours


TIED = {"decoder.weight": None, "decoder.linear.weight": _randn(D_SAE, D_IN, seed=3)}


def test_relu_features_and_reconstruction_are_the_original_s(tmp_path: Path) -> None:
    _assert_same(tmp_path / "0.pt", _state())


def test_a_file_without_an_activation_is_relu(tmp_path: Path) -> None:
    _assert_same(tmp_path / "0.pt", _state(activation=None, activation_state_dict=None))


def test_topk_means_layer_norm(tmp_path: Path) -> None:
    ours = _assert_same(tmp_path / "0.pt", _topk())
    assert ours.cfg.normalization == "layer_norm"
    x = _data()
    assert torch.equal(ours.encode(x) > 0, ours.encode(5 * x + 3) > 0)


def test_topk_with_few_positive_pre_activations_has_fewer_than_k_features(tmp_path: Path) -> None:
    """Of the k largest the negative ones are cut, and none takes their place."""
    state = _topk(latent_bias=_randn(D_SAE, seed=2) - 8)
    ours = _assert_same(tmp_path / "0.pt", state)
    assert (ours.encode(_data()) > 0).sum(dim=1).min() < K


def test_topk_with_an_identity_after_it_keeps_negative_features(tmp_path: Path) -> None:
    state = _topk("Identity", latent_bias=_randn(D_SAE, seed=2) - 8)
    ours = _assert_same(tmp_path / "0.pt", state)
    acts = ours.encode(_data())
    assert (acts < 0).any() and ((acts != 0).sum(dim=1) == K).all()


@pytest.mark.parametrize("make", [_state, _topk])
def test_a_tied_decoder_is_the_transpose_of_the_encoder(tmp_path: Path, make: Any) -> None:
    ours = _assert_same(tmp_path / "0.pt", make(**TIED))
    assert ours.cfg.tied


def test_a_tied_decoder_with_other_weights_is_refused(tmp_path: Path) -> None:
    torch.save(
        _state(**TIED | {"decoder.linear.weight": torch.ones(D_SAE, D_IN)}), tmp_path / "0.pt"
    )
    with pytest.raises(sae.InputError, match="tied decoder whose weights are not the encoder's"):
        sae.load(tmp_path)


def test_the_stray_keys_of_an_activation_may_be_all_there_is(tmp_path: Path) -> None:
    path = tmp_path / "0.pt"
    _assert_same(path, _topk())
    acts = sae.load(path).encode(_data())
    torch.save({**_topk(), "activation_state_dict": {}}, path)
    assert torch.equal(sae.load(path).encode(_data()), acts)


def test_half_precision_is_read_in_float32(tmp_path: Path) -> None:
    state = _topk()
    half = {
        name: value.half() if isinstance(value, Tensor) else value for name, value in state.items()
    }
    torch.save(half, tmp_path / "0.pt")
    assert sae.load(tmp_path).dtype == torch.float32


# What the place of a file says -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "hook_name"),
    [
        ("mlp_post_act", "blocks.7.mlp.hook_post"),
        ("resid_delta_mlp_v4", "blocks.7.hook_mlp_out"),
        ("resid_delta_attn_v5_32k", "blocks.7.hook_attn_out"),
        ("resid_post_attn_v5_128k", "blocks.7.hook_resid_mid"),
        ("resid_post_mlp_v5_32k", "blocks.7.hook_resid_post"),
    ],
)
def test_a_file_where_it_was_published_says_model_and_site(
    tmp_path: Path, location: str, hook_name: str
) -> None:
    path = tmp_path / location / "autoencoders" / "7.pt"
    path.parent.mkdir(parents=True)
    torch.save(_topk(), path)
    assert sae.load(path).provenance.to_metadata() == {
        "model_name": "gpt2",
        "hook_name": hook_name,
        "context_size": 64,
        "processing": "raw",
    }


def test_a_file_elsewhere_says_nothing(tmp_path: Path) -> None:
    torch.save(_topk(), tmp_path / "7.pt")
    assert sae.load(tmp_path / "7.pt").provenance.to_metadata() == {}


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (_state(activation="Identity"), "has activation 'Identity': known are ReLU, TopK"),
        (_topk("TopK"), "has postact_fn 'TopK': known are ReLU, Identity"),
        (_topk(k=2.5), "k in 0.pt must be a whole number .*, got 2.5"),
        (_topk(k=[[1], [2]]), "k in 0.pt must be a whole number .*, got a list"),
        (_topk(k=D_SAE + 1), r"k must be in 1..d_sae \(32\), got 33"),
        (_state(gate=torch.ones(2)), "holds gate, which this layout does not have"),
        (_state(**{"decoder.weight": None}), "lacks the tensor decoder.weight"),
        (_state(**{"decoder.weight": torch.ones(D_SAE, D_IN)}), "do not fit together"),
        (_state(**{"encoder.weight": torch.ones(3)}), r"encoder.weight in .* shape \(3,\)"),
        (_state(pre_bias=torch.full((D_IN,), torch.inf)), "pre_bias in .* holds NaN or Inf"),
        (_state(latent_bias=torch.arange(D_SAE)), "latent_bias in .* no tensor of real numbers"),
    ],
)
def test_what_cannot_be_had_is_refused(tmp_path: Path, state: dict[str, Any], message: str) -> None:
    torch.save(state, tmp_path / "0.pt")
    with pytest.raises(sae.InputError, match=message) as refused:
        sae.load(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_folder_of_several_asks_for_one(tmp_path: Path) -> None:
    for layer in (0, 1):
        torch.save(_state(), tmp_path / f"{layer}.pt")
    with pytest.raises(sae.InputError, match=r"holds 0.pt, 1.pt: name one of them"):
        sae.load(tmp_path)
    _assert_same(tmp_path / "1.pt", _state())


# Strangers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["os.system", "as a member"])
def test_a_malicious_pickle_is_never_run(tmp_path: Path, name: str) -> None:
    put(tmp_path / "0.pt", malicious(tmp_path / "trace")[name])
    with pytest.raises(sae.InputError):
        sae.load(tmp_path / "0.pt")
    assert not (tmp_path / "trace").exists()
