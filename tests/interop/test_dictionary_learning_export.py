"""Dictionaries written for dictionary_learning compute there what they compute here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dictionary_learning_files import (
    D_IN,
    D_SAE,
    SITE,
    STATES,
    K,
    check_same,
    inputs,
    original,
    random,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import sae
from sae.architectures import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
)
from sae.base import SAE, SAEConfig
from sae.interop import PretrainedConfig, PretrainedSAE, export, exporting

METADATA = {
    **{"model_name": "gpt2", "hook_name": SITE, "context_size": 128, "processing": "centred"},
    "prepend_bos": True,
}

OURS: dict[str, tuple[Callable[[bool], SAEConfig], str]] = {
    "relu": (lambda tied: ReLUConfig(d_sae=D_SAE, tied=tied), "AutoEncoder"),
    "jumprelu": (lambda tied: JumpReLUConfig(d_sae=D_SAE, tied=tied), "JumpReluAutoEncoder"),
    "topk": (lambda tied: TopKConfig(d_sae=D_SAE, k=K, tied=tied), "AutoEncoderTopK"),
    "batch_topk": (lambda tied: BatchTopKConfig(d_sae=D_SAE, k=K, tied=tied), "BatchTopKSAE"),
    "gated": (lambda tied: GatedConfig(d_sae=D_SAE, tied=tied), "GatedAutoEncoder"),
    "matryoshka": (
        lambda tied: MatryoshkaConfig(d_sae=D_SAE, k=K, tied=tied, prefixes=(8, 32)),
        "MatryoshkaBatchTopKSAE",
    ),
}


@torch.no_grad()
def trained(cfg: SAEConfig) -> SAE:
    """One of ours as training may leave it: unit decoder rows, and all else at random."""
    ours = cfg.build(D_IN, seed=0)
    for i, (name, parameter) in enumerate(ours.named_parameters()):
        if name != "W_dec":
            parameter.copy_(random(*parameter.shape, seed=i) / 2)
    if hasattr(ours, "threshold"):
        values = random(D_SAE).abs() if cfg.architecture == "jumprelu" else torch.full((32,), 0.4)
        ours.threshold.copy_(values)
    ours.provenance = sae.Provenance.from_metadata(dict(METADATA))
    return ours


@torch.no_grad()
def foreign(activation: Any, *, subtracts_b_dec: bool, seed: int = 0, **more: Any) -> PretrainedSAE:
    tensors = {
        "W_enc": random(D_IN, D_SAE, seed=seed) / 2,
        "W_dec": random(D_SAE, D_IN, seed=seed + 1),
        "b_enc": random(D_SAE, seed=seed + 2),
        "b_dec": random(D_IN, seed=seed + 3),
    }
    if activation == "jumprelu":
        tensors["threshold"] = random(D_SAE, seed=seed + 4)
    if activation == "gated":
        tensors |= {"r_mag": random(D_SAE, seed=seed + 5) / 2, "b_mag": random(D_SAE, seed=seed)}
    if more.pop("skip", False):
        tensors["W_skip"] = random(D_IN, D_IN)
    cfg = PretrainedConfig(
        d_sae=D_SAE, activation=activation, subtracts_b_dec=subtracts_b_dec, **more
    )
    return PretrainedSAE(cfg, tensors)


def check_written(ours: SAE, folder: Path, dict_class: str, x: Tensor) -> None:
    """Both by the mathematics of the package, and read again."""
    export(ours, folder, to="dictionary_learning")
    config = json.loads((folder / "config.json").read_text())
    state = torch.load(folder / "ae.pt", weights_only=True)
    assert config["trainer"]["dict_class"] == dict_class
    assert state.keys() == STATES[dict_class]().keys()
    acts, x_hat = original(dict_class, state, x)
    assert torch.allclose(acts, ours.encode(x), atol=1e-5)
    assert torch.equal(acts != 0, ours.encode(x) != 0)
    assert torch.allclose(x_hat, ours(x), rtol=1e-5, atol=3e-5)
    check_same(sae.load(folder), acts, x_hat, x)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", OURS)
def test_ours_is_written_so_that_the_package_computes_the_same(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    build, dict_class = OURS[architecture]
    check_written(trained(build(tied)), tmp_path, dict_class, inputs())


@pytest.mark.parametrize("subtracts_b_dec", [False, True])
@pytest.mark.parametrize(
    ("activation", "dict_class"),
    [
        ("relu", "AutoEncoderNew"),
        ("jumprelu", "JumpReluAutoEncoder"),
        ("topk", "AutoEncoderTopK"),
        ("gated", "GatedAutoEncoder"),
    ],
)
def test_one_of_another_project_is_written_with_its_bias_folded(
    tmp_path: Path, activation: str, dict_class: str, subtracts_b_dec: bool
) -> None:
    more = {"k": K} if activation == "topk" else {}
    ours = foreign(activation, subtracts_b_dec=subtracts_b_dec, **more)
    check_written(ours, tmp_path, dict_class, inputs())


def test_loading_what_was_written_changes_no_feature(tmp_path: Path) -> None:
    """An AutoEncoder is loaded with its decoder brought to unit norm: those that are not there
    already are written as AutoEncoderNew, which is loaded as it is."""
    unit, other = trained(ReLUConfig(d_sae=D_SAE)), trained(ReLUConfig(d_sae=D_SAE))
    with torch.no_grad():
        other.W_dec.mul_(1.5)
    check_written(unit, tmp_path / "unit", "AutoEncoder", inputs())
    check_written(other, tmp_path / "other", "AutoEncoderNew", inputs())


def test_the_config_is_what_their_loaders_read(tmp_path: Path) -> None:
    export(trained(MatryoshkaConfig(d_sae=D_SAE, k=K)), tmp_path, to="dictionary_learning")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["trainer"] == {
        **{"dict_class": "MatryoshkaBatchTopKSAE", "activation_dim": D_IN, "dict_size": D_SAE},
        **{"k": K, "layer": 3, "lm_name": "gpt2", "submodule_name": "resid_post_layer_3"},
    }
    assert config["buffer"] == {"ctx_len": 128, "d_submodule": D_IN, "io": "out"}
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    assert state["group_sizes"].tolist() == [2, 2, 4, 8, 16]
    assert (state["k"].shape, state["k"].dtype) == ((), torch.int32)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ae.pt", "config.json"]


def test_metadata_come_back_though_the_layout_has_no_place_for_them(tmp_path: Path) -> None:
    """Among them that activations were centred, which the package never does."""
    export(trained(ReLUConfig(d_sae=D_SAE)), tmp_path, to="dictionary_learning")
    assert sae.load(tmp_path).provenance.to_metadata().items() >= METADATA.items()


def test_a_dictionary_without_metadata_is_written_too(tmp_path: Path) -> None:
    ours = foreign("relu", subtracts_b_dec=True)
    export(ours, tmp_path, to="dictionary_learning")
    assert sae.load(tmp_path).hook_name is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: foreign("groupmax", subtracts_b_dec=True, k=4), "activation groupmax, only relu"),
        (lambda: foreign("tanh_relu", subtracts_b_dec=True), "the activation tanh_relu"),
        (
            lambda: foreign("topk", subtracts_b_dec=True, k=4, normalization="layer_norm"),
            "the layer_norm of its inputs",
        ),
        (
            lambda: foreign("topk", subtracts_b_dec=True, k=4, keeps_negative=True),
            "features that keep negative values",
        ),
        (
            lambda: foreign("topk", subtracts_b_dec=True, k=4, selects_by_decoder_norm=True),
            "compete by the norms of their decoder rows",
        ),
        (
            lambda: foreign("relu", subtracts_b_dec=False, reverses_bias=True),
            "a bias that decoding takes back",
        ),
        (lambda: foreign("relu", subtracts_b_dec=False, skip=True), "a skip connection"),
    ],
)
def test_what_the_package_would_compute_otherwise_is_not_written(
    tmp_path: Path, make: Callable[[], SAE], message: str
) -> None:
    with pytest.raises(
        sae.InputError, match=f"dictionary_learning files cannot express .*{message}"
    ):
        export(make(), tmp_path / "out", to="dictionary_learning")
    assert not (tmp_path / "out").exists()


def test_a_transcoder_between_widths_is_not_written(tmp_path: Path) -> None:
    tensors = {
        **{"W_enc": random(D_IN, D_SAE), "b_enc": random(D_SAE)},
        **{"W_dec": random(D_SAE, 4), "b_dec": random(4)},
    }
    cfg = PretrainedConfig(d_sae=D_SAE, activation="relu", subtracts_b_dec=False)
    with pytest.raises(sae.InputError, match="inputs of width 8 for outputs of width 4"):
        export(PretrainedSAE(cfg, tensors), tmp_path, to="dictionary_learning")


def test_norms_that_are_equal_but_for_rounding_do_not_change_who_wins(tmp_path: Path) -> None:
    """SAELens' files of topk dictionaries select by norms, and have rows of norm 1."""
    ours = foreign("topk", subtracts_b_dec=True, k=K, selects_by_decoder_norm=True)
    with torch.no_grad():
        ours.W_dec.copy_(functional.normalize(ours.W_dec, dim=1))
    check_written(ours, tmp_path, "AutoEncoderTopK", inputs())


def test_a_negative_threshold_of_ours_is_not_written(tmp_path: Path) -> None:
    ours = trained(JumpReLUConfig(d_sae=D_SAE))
    with torch.no_grad():
        ours.get_parameter("threshold")[3] = -1.0
    with pytest.raises(sae.InputError, match="threshold is negative"):
        export(ours, tmp_path, to="dictionary_learning")


def test_a_disk_that_fills_up_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained(ReLUConfig(d_sae=D_SAE))
    export(first, tmp_path, to="dictionary_learning")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        export(trained(TopKConfig(d_sae=D_SAE, k=K)), tmp_path, to="dictionary_learning")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ae.pt", "config.json"]
    assert torch.equal(sae.load(tmp_path).W_dec, first.W_dec)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["relu", "jumprelu", "gated", "topk"]),
    st.booleans(),
    st.integers(0, 1000),
    st.floats(0.1, 100),
)
def test_writing_and_reading_changes_nothing_that_is_computed(
    tmp_path_factory: pytest.TempPathFactory,
    activation: str,
    subtracts_b_dec: bool,
    seed: int,
    scale: float,
) -> None:
    more = {"k": K} if activation == "topk" else {}
    ours = foreign(activation, subtracts_b_dec=subtracts_b_dec, seed=seed, **more)
    folder = tmp_path_factory.mktemp("written")
    export(ours, folder, to="dictionary_learning")
    again, x = sae.load(folder), inputs(scale)
    size = ours.encode(x).abs().max().clamp_min(scale)
    assert (again.encode(x) - ours.encode(x)).abs().max() <= 1e-5 * size
    assert (again(x) - ours(x)).abs().max() <= 1e-5 * size * D_IN
