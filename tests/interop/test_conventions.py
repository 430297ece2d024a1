"""What is said of BOS and of the site: what the files say, and nothing that is only likely."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faults.foreign import FOREIGN
from safetensors.torch import load_file, save_file

import sae
from sae.architectures import TopKConfig
from sae.interop.pretrained import Activation, Normalization, PretrainedConfig, PretrainedSAE


@pytest.mark.parametrize("layout", FOREIGN)
def test_bos_is_not_guessed(tmp_path: Path, layout: str) -> None:
    """GPT-2's tokenizer adds none, and some projects prepend it: a guess is wrong for many."""
    metadata = sae.load(FOREIGN[layout].write(tmp_path)).provenance.to_metadata()
    known = True if layout == "hook_z" else None  # which its makers say of all of them
    assert metadata.get("prepend_bos") is known


@pytest.mark.parametrize("prepend_bos", [True, False])
def test_bos_is_what_a_file_says(tmp_path: Path, prepend_bos: bool) -> None:
    its = FOREIGN["saelens"]
    metadata = {**its.config["metadata"], "prepend_bos": prepend_bos}
    replace(its, config={**its.config, "metadata": metadata}).write(tmp_path)
    assert sae.load(tmp_path).provenance.to_metadata()["prepend_bos"] is prepend_bos


def test_of_a_published_folder_more_is_known(tmp_path: Path) -> None:
    published = tmp_path / "gemma-scope-2b-pt-res" / "layer_5" / "width_16k" / "average_l0_68"
    metadata = sae.load(FOREIGN["gemma_scope"].write(published)).provenance.to_metadata()
    known = {"model_name": "google/gemma-2-2b", "hook_name": "blocks.5.hook_resid_post"}
    assert known.items() <= metadata.items() and metadata["prepend_bos"] is True


def test_a_site_that_is_only_likely_is_not_said(tmp_path: Path) -> None:
    """`submodule_name` is a name that its user has chosen."""
    its = FOREIGN["dictionary_learning"]
    trainer = {**its.config["trainer"], "submodule_name": "my favourite layer"}
    its.write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**its.config, "trainer": trainer}))
    assert "hook_name" not in sae.load(tmp_path).provenance.to_metadata()


@pytest.mark.parametrize("normalization", ["none", "layer_norm", "constant_norm"])
@pytest.mark.parametrize("activation", ["relu", "topk", "groupmax", "gated"])
def test_tokens_of_any_leading_shape_are_normalised_one_by_one(
    activation: Activation, normalization: Normalization
) -> None:
    """Over positions the statistics were others, and one entry in sixteen flipped."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (16, 64), "W_dec": (64, 16), "b_enc": (64,), "b_dec": (16,)}
    shapes |= {"r_mag": (64,), "b_mag": (64,)} if activation == "gated" else {}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    cfg = PretrainedConfig(d_sae=64, activation=activation, k=8, normalization=normalization)
    dictionary = PretrainedSAE(cfg, weights)
    rows = torch.randn(12, 16, generator=generator) + 1
    x = rows.view(3, 4, 16)
    assert torch.equal(dictionary.encode(x), dictionary.encode(rows).view(3, 4, 64))
    assert torch.equal(dictionary(x), dictionary(rows).view(3, 4, 16))
    x_hat = dictionary.decode(dictionary.encode_sparse(x), dictionary.moments(x))
    assert torch.allclose(x_hat, dictionary(x), atol=1e-5)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "module._orig_mod."])
def test_weights_of_a_wrapped_module_are_loaded(tmp_path: Path, wrapper: str) -> None:
    """`torch.compile` and `DistributedDataParallel` put their names in front of all others."""
    sae.save(TopKConfig(d_sae=8, k=2).build(4), tmp_path)
    file = tmp_path / "sae_weights.safetensors"
    x, expected = torch.ones(1, 4), sae.load(tmp_path)(torch.ones(1, 4))
    save_file({f"{wrapper}{name}": tensor for name, tensor in load_file(file).items()}, file)
    assert torch.equal(sae.load(tmp_path)(x), expected)
