"""Dictionaries written for EleutherAI's sparsify compute there what they compute here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sparsify_files import CONFIG, D_IN, D_SAE, K, check_same, inputs, original, random, state
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
from sae.base import SAE
from sae.interop import PretrainedConfig, PretrainedSAE, export

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
    ours.provenance = sae.Provenance.from_metadata(dict(METADATA))
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
    return PretrainedSAE(cfg, tensors, sae.Provenance.from_metadata(metadata or {}))


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
    assert sae.load(tmp_path / "h.7").provenance.to_metadata().items() >= METADATA.items()


def test_norms_that_are_equal_but_for_rounding_do_not_change_who_wins(tmp_path: Path) -> None:
    ours = foreign(selects_by_decoder_norm=True)
    with torch.no_grad():
        ours.W_dec.copy_(functional.normalize(ours.W_dec, dim=1))
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
