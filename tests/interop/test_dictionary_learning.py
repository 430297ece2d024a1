"""Dictionaries of dictionary_learning compute here what its own classes compute."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dictionary_learning_files import (
    D_IN,
    D_SAE,
    SITE,
    STATES,
    TRAINER,
    K,
    State,
    check_same,
    inputs,
    original,
    parameters,
    scalars,
    write,
)

import sae
from sae.interop import PretrainedSAE


@pytest.mark.parametrize("named", ["folder", "file"])
@pytest.mark.parametrize("dict_class", STATES)
def test_every_class_computes_what_the_package_computes(
    tmp_path: Path, dict_class: str, named: str
) -> None:
    state = STATES[dict_class]()
    folder = write(tmp_path / "trainer_0", dict_class, state)
    ours = sae.load(folder if named == "folder" else folder / "ae.pt")
    assert isinstance(ours, PretrainedSAE)
    check_same(ours, *original(dict_class, state, inputs()), inputs())


@pytest.mark.parametrize("dict_class", STATES)
def test_a_backup_in_normalised_units_takes_activations_as_they_are(
    tmp_path: Path, dict_class: str
) -> None:
    state, factor = STATES[dict_class](), 21.5
    backup = {
        **{"step": 3, "ae": state, "optimizer": {"state": {}, "param_groups": []}},
        **{"config": {**TRAINER, "dict_class": dict_class}, "norm_factor": factor},
    }
    x = inputs()
    acts, x_hat = original(dict_class, state, x / factor)
    for config in (dict_class, None):  # the backup has its own
        ours = sae.load(write(tmp_path / str(config), config, backup))
        check_same(ours, acts * factor, x_hat * factor, x)


def test_a_finished_training_is_not_scaled_again(tmp_path: Path) -> None:
    state = STATES["BatchTopKSAE"]()
    ours = sae.load(write(tmp_path, "BatchTopKSAE", state, norm_factor=21.5))
    check_same(ours, *original("BatchTopKSAE", state, inputs()), inputs())


def test_a_backup_of_a_training_without_normalisation_is_as_it_is(tmp_path: Path) -> None:
    state = STATES["AutoEncoder"]()
    ours = sae.load(write(tmp_path, "AutoEncoder", {"step": 3, "ae": state, "norm_factor": None}))
    check_same(ours, *original("AutoEncoder", state, inputs()), inputs())


def test_the_april_update_writes_the_name_of_another_class(tmp_path: Path) -> None:
    """Its trainer says AutoEncoder of an AutoEncoderNew, which does not subtract its bias."""
    state = STATES["AutoEncoderNew"]()
    ours = sae.load(write(tmp_path, "AutoEncoder", state))
    check_same(ours, *original("AutoEncoderNew", state, inputs()), inputs())


def test_the_features_are_those_of_the_file_not_those_of_unit_decoder_rows(tmp_path: Path) -> None:
    """`AutoEncoder.from_pretrained` multiplies each feature by the norm of its row."""
    state = STATES["AutoEncoder"]()
    ours = sae.load(write(tmp_path, "AutoEncoder", state))
    acts, x_hat = original("AutoEncoder", state, inputs())
    norms = state["decoder.weight"].norm(dim=0)
    assert (norms - 1).abs().max() > 0.5
    check_same(ours, acts, x_hat, inputs())


def test_jumprelu_does_not_subtract_the_decoder_bias(tmp_path: Path) -> None:
    state = parameters(threshold=torch.full((D_SAE,), 0.5))
    ours = sae.load(write(tmp_path, "JumpReluAutoEncoder", state))
    pre = inputs() @ state["W_enc"] + state["b_enc"]
    assert torch.equal(ours.encode(inputs()) != 0, pre > 0.5)


def test_at_the_threshold_a_feature_is_not_active(tmp_path: Path) -> None:
    state = parameters(threshold=torch.full((D_SAE,), 2.0))
    state["W_enc"] = torch.zeros(D_IN, D_SAE)
    state["b_enc"] = torch.tensor([2.0, 2.5] * (D_SAE // 2))
    ours = sae.load(write(tmp_path, "JumpReluAutoEncoder", state))
    assert ours.encode(inputs())[0].tolist() == [0.0, 2.5] * (D_SAE // 2)


def test_a_threshold_below_zero_is_none(tmp_path: Path) -> None:
    """BatchTopKSAE starts with -1: until training sets one, all positive features count."""
    state = {**STATES["BatchTopKSAE"](), **scalars(-1.0)}
    ours = sae.load(write(tmp_path, "BatchTopKSAE", state))
    pre = (inputs() - state["b_dec"]) @ state["encoder.weight"].T + state["encoder.bias"]
    assert torch.equal(ours.encode(inputs()) != 0, pre > 0)


def test_topk_keeps_k_features_whatever_its_threshold(tmp_path: Path) -> None:
    state = {**STATES["AutoEncoderTopK"](), **scalars(1e6)}
    ours = sae.load(write(tmp_path, "AutoEncoderTopK", state))
    check_same(ours, *original("AutoEncoderTopK", state, inputs()), inputs())


def test_topk_of_older_versions_has_its_k_in_the_config(tmp_path: Path) -> None:
    state = STATES["AutoEncoderTopK"]()
    older = {name: tensor for name, tensor in state.items() if name not in ("k", "threshold")}
    ours = sae.load(write(tmp_path, "AutoEncoderTopK", older, k=K))
    check_same(ours, *original("AutoEncoderTopK", state, inputs()), inputs())


def test_fewer_than_k_features_may_be_positive(tmp_path: Path) -> None:
    state = STATES["AutoEncoderTopK"]()
    state["encoder.bias"] -= 5
    ours = sae.load(write(tmp_path, "AutoEncoderTopK", state))
    assert (ours.encode(inputs()) != 0).sum(dim=1).min() < K
    check_same(ours, *original("AutoEncoderTopK", state, inputs()), inputs())


def test_a_checkpoint_finds_the_config_of_its_trainer(tmp_path: Path) -> None:
    state = STATES["AutoEncoderTopK"]()
    write(tmp_path, "AutoEncoderTopK", STATES["AutoEncoderTopK"](), k=K)
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "ae_100.pt")
    ours = sae.load(tmp_path / "checkpoints" / "ae_100.pt")
    check_same(ours, *original("AutoEncoderTopK", state, inputs()), inputs())


@pytest.mark.parametrize("dict_class", sorted(set(STATES) - {"AutoEncoderTopK", "BatchTopKSAE"}))
def test_without_a_config_the_tensors_say_the_class(tmp_path: Path, dict_class: str) -> None:
    state = STATES[dict_class]()
    ours = sae.load(write(tmp_path, None, state))
    check_same(ours, *original(dict_class, state, inputs()), inputs())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_read_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {
        name: tensor.to(dtype) if tensor.ndim else tensor
        for name, tensor in STATES["BatchTopKSAE"]().items()
    }
    ours = sae.load(write(tmp_path, "BatchTopKSAE", state))
    in_float32 = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    check_same(ours, *original("BatchTopKSAE", in_float32, inputs()), inputs())


# What it says of itself --------------------------------------------------------------------------


def test_the_metadata_are_what_the_config_says(tmp_path: Path) -> None:
    ours = sae.load(write(tmp_path, "AutoEncoder", STATES["AutoEncoder"]()))
    assert ours.hook_name == SITE
    assert ours.provenance.to_metadata() == {
        **{"model_name": "gpt2", "hook_name": SITE, "context_size": 128, "processing": "raw"},
        **{"layer": 3, "submodule_name": "resid_post_layer_3", "io": "out"},
    }


@pytest.mark.parametrize("submodule", [None, "mlp_layer_3", "resid_post_layer_x"])
def test_a_layer_alone_is_no_site(tmp_path: Path, submodule: str | None) -> None:
    """SAELens takes every layer for a resid_post, and every text for one that begins with BOS."""
    path = write(tmp_path, "AutoEncoder", STATES["AutoEncoder"](), submodule_name=submodule)
    ours = sae.load(path)
    assert ours.hook_name is None
    assert ours.provenance.to_metadata()["layer"] == 3
    assert "prepend_bos" not in ours.provenance.to_metadata()


def test_the_input_of_a_block_is_not_its_output(tmp_path: Path) -> None:
    folder = write(tmp_path, "AutoEncoder", STATES["AutoEncoder"]())
    config = json.loads((folder / "config.json").read_text())
    config["buffer"]["io"] = "in"
    (folder / "config.json").write_text(json.dumps(config))
    assert sae.load(folder).hook_name is None


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dict_class", "change", "config", "message"),
    [
        ("IdentityDict", {}, {}, "dict_class 'IdentityDict': known are Auto"),
        ("JumpReluAutoEncoder", {}, {}, "lacks the tensor W_enc"),
        ("AutoEncoder", {"threshold": torch.tensor(1.0)}, {}, "holds threshold, which this"),
    ],
)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, dict_class: Any, change: State, config: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, dict_class, {**STATES["AutoEncoder"](), **change}, **config)
    with pytest.raises(sae.InputError, match=message):
        sae.load(path)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({}, {"k": K + 1}, "has k 4, and config.json 5: they must agree"),
        ({"k": torch.tensor(2.5)}, {}, "k in .* must be a whole number .*, got 2.5"),
        ({"k": torch.tensor([1, 2])}, {}, "k in .* must be a whole number .*, got a Tensor"),
    ],
)
def test_an_unusable_k_is_refused(
    tmp_path: Path, change: State, config: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, "AutoEncoderTopK", {**STATES["AutoEncoderTopK"](), **change}, **config)
    with pytest.raises(sae.InputError, match=message):
        sae.load(path)


def test_a_threshold_that_is_no_number_is_refused(tmp_path: Path) -> None:
    state = {**STATES["BatchTopKSAE"](), **scalars(torch.nan)}
    with pytest.raises(sae.InputError, match=r"threshold in .* must be a finite number, got nan"):
        sae.load(write(tmp_path, "BatchTopKSAE", state))


def test_a_batch_topk_without_its_threshold_is_refused(tmp_path: Path) -> None:
    state = STATES["BatchTopKSAE"]()
    del state["threshold"]
    with pytest.raises(sae.InputError, match=r"threshold in .* must be a finite number, got None"):
        sae.load(write(tmp_path, "BatchTopKSAE", state))


def test_classes_with_the_same_tensors_are_not_told_apart_by_guessing(tmp_path: Path) -> None:
    path = write(tmp_path, None, STATES["AutoEncoderTopK"]())
    with pytest.raises(
        sae.InputError, match=r"may be of AutoEncoderTopK or BatchTopKSAE: put the config.json"
    ):
        sae.load(path)


@pytest.mark.parametrize(
    ("backup", "message"),
    [
        ({}, "is a backup without norm_factor"),
        ({"norm_factor": 0.0}, "norm_factor in .* must be a positive number, got 0.0"),
        ({"norm_factor": "2"}, "norm_factor in .* must be a finite number, got '2'"),
        ({"norm_factor": 2.0, "whitening": 1}, "holds whitening"),
        ({"norm_factor": 2.0, "ae": []}, "ae in .* must be a dict"),
    ],
)
def test_a_backup_that_is_not_understood_is_refused(
    tmp_path: Path, backup: dict[str, Any], message: str
) -> None:
    content = {"step": 1, "ae": STATES["AutoEncoder"](), **backup}
    with pytest.raises(sae.InputError, match=message):
        sae.load(write(tmp_path, "AutoEncoder", content))
