import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import sae
from sae.architectures import JumpReLUConfig, ReLUConfig, TopKConfig
from sae.base import SAE
from sae.interop import PretrainedSAE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sae.save(TopKConfig(d_sae=8, k=2).build(4, seed=0), tmp_path / "d")
    return tmp_path / "d"


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("cfg", "name", "tensors"),
    [
        (ReLUConfig(d_sae=8), "standard", {"W_enc", "W_dec", "b_enc", "b_dec"}),
        (TopKConfig(d_sae=8, k=2), "topk", {"W_enc", "W_dec", "b_enc", "b_dec"}),
        (JumpReLUConfig(d_sae=8), "jumprelu", {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}),
        (ReLUConfig(d_sae=8, tied=True), "standard", {"W_enc", "W_dec", "b_enc", "b_dec"}),
    ],
)
def test_the_files_are_what_saelens_v6_reads(
    tmp_path: Path, cfg: ReLUConfig | TopKConfig | JumpReLUConfig, name: str, tensors: set[str]
) -> None:
    dictionary = cfg.build(4, seed=0)
    sae.save(dictionary, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == name
    assert (config["d_in"], config["d_sae"], config["dtype"]) == (4, 8, "float32")
    assert config["apply_b_dec_to_input"] is True
    assert config["normalize_activations"] == "none"
    assert config["metadata"]["featureloom"]["config"]["tied"] == cfg.tied
    stored = load_file(tmp_path / "sae_weights.safetensors")
    assert stored.keys() == tensors
    # SAELens' forward, written out, on a dictionary whose bias is not zero
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    pre_acts = (x - stored["b_dec"]) @ stored["W_enc"] + stored["b_enc"]
    if name == "topk":
        kept = pre_acts.topk(config["k"], dim=1)
        acts = torch.zeros_like(pre_acts).scatter(1, kept.indices, kept.values.relu())
    else:
        acts = pre_acts.relu() * (pre_acts > stored.get("threshold", torch.zeros(8)))
    assert torch.allclose(acts @ stored["W_dec"] + stored["b_dec"], dictionary(x), atol=1e-6)


def test_a_saved_dictionary_leaves_no_temporary_files(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["cfg.json", "sae_weights.safetensors"]


def test_saving_again_replaces_what_was_there(folder: Path) -> None:
    other = ReLUConfig(d_sae=5).build(3, seed=1)
    sae.save(other, folder)
    assert torch.equal(sae.load(folder).W_dec, other.W_dec)


def test_the_folder_of_a_run_will_do(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run" / "sae")
    assert sae.load(tmp_path / "run").d_sae == 8


def test_where_a_dictionary_belongs_comes_back_with_all_that_its_file_says(tmp_path: Path) -> None:
    dictionary: SAE = ReLUConfig(d_sae=8).build(4)
    known = sae.Provenance(model_name="tiny", prepend_bos=True, others={"a_note": [1, "kept"]})
    dictionary.provenance = known
    sae.save(dictionary, tmp_path)
    assert sae.load(tmp_path).provenance == known


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        sae.InputError, match=r"no dictionary at .*nowhere: it is no file and no folder; name"
    ):
        sae.load(tmp_path / "nowhere")


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(sae.InputError, match=r"sae_weights.safetensors is missing"):
        sae.load(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(sae.InputError, match=r"cannot be read .*; restore it"):
        sae.load(folder)


def test_a_config_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "cfg.json").write_text("{")
    with pytest.raises(sae.InputError, match="damaged"):
        sae.load(folder)


def test_weights_that_do_not_fit_the_config_are_refused_by_name(folder: Path) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file({**tensors, "b_enc": torch.zeros(7)}, folder / "sae_weights.safetensors")
    with pytest.raises(sae.InputError, match=r"b_enc in .* is of shape \(7,\), expected \(8,\)"):
        sae.load(folder)


def test_an_unknown_architecture_is_refused_by_name(folder: Path) -> None:
    _edit_config(folder, metadata={"featureloom": {"architecture": "magic", "config": {}}})
    with pytest.raises(sae.InputError, match="architecture 'magic': known are"):
        sae.load(folder)


def test_unknown_settings_are_refused_by_name(folder: Path) -> None:
    own = {"architecture": "topk", "config": {"d_sae": 8, "k": 2, "magic": 1}}
    _edit_config(folder, metadata={"featureloom": own})
    with pytest.raises(sae.InputError, match="unknown keys: magic"):
        sae.load(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tied", [False, True])
def test_other_precisions_come_back_as_they_were(
    tmp_path: Path, dtype: torch.dtype, tied: bool
) -> None:
    dictionary = ReLUConfig(d_sae=8, tied=tied).build(4).to(dtype)
    sae.save(dictionary, tmp_path)
    again = sae.load(tmp_path)
    assert again.dtype == dtype
    for name, weights in dictionary.state_dict().items():
        assert torch.equal(again.state_dict()[name], weights), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", "jumprelu"),
        ("d_sae", 16),
        ("dtype", "float16"),
        ("apply_b_dec_to_input", False),
        ("normalize_activations", "layer_norm"),
        ("reshape_activations", "hook_z"),
        ("k", 3),
        ("rescale_acts_by_decoder_norm", True),
    ],
)
def test_what_saelens_would_read_must_be_what_is_read_here(
    folder: Path, name: str, value: object
) -> None:
    _edit_config(folder, **{name: value})
    with pytest.raises(sae.InputError, match=f"has {name} {value!r}, and the dictionary in it"):
        sae.load(folder)


def test_a_tied_dictionary_with_another_encoder_is_refused(tmp_path: Path) -> None:
    """Whoever reads the stored encoder would compute other features than we do."""
    sae.save(ReLUConfig(d_sae=8, tied=True).build(4), tmp_path)
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**tensors, "W_enc": 2 * tensors["W_enc"]}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(
        sae.InputError, match="is of a tied dictionary, and W_enc is not the transpose of W_dec"
    ):
        sae.load(tmp_path)


def test_what_is_not_read_of_a_config_may_be_anything(folder: Path) -> None:
    config = json.loads((folder / "cfg.json").read_text())
    mine = {"n_tokens": 10**12, "notes": ["mine", {"learned": math.nan}]}
    _edit_config(folder, device="cuda:3", metadata={**config["metadata"], **mine})
    assert repr(sae.load(folder).provenance.to_metadata()) == repr(mine)


def test_without_what_is_ours_alone_it_is_read_as_one_of_saelens(folder: Path) -> None:
    ours, x = sae.load(folder), torch.randn(5, 4)
    _edit_config(folder, metadata={})
    theirs = sae.load(folder)
    assert isinstance(theirs, PretrainedSAE) and theirs.provenance == sae.Provenance()
    assert_close(theirs.encode(x), ours.encode(x))
    assert_close(theirs(x), ours(x))


def test_a_dictionary_of_another_project_is_not_saved_as_ours(folder: Path) -> None:
    _edit_config(folder, metadata={})
    with pytest.raises(
        sae.InputError, match=r"is none of ours: write it with sae\.interop\.export"
    ):
        sae.save(sae.load(folder), folder / "again")
    assert not (folder / "again").exists()


def test_the_heads_of_attention_are_said_to_be_flattened(tmp_path: Path) -> None:
    dictionary = ReLUConfig(d_sae=8).build(4)
    dictionary.provenance = sae.Provenance(hook_name="blocks.0.attn.hook_z")
    sae.save(dictionary, tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["reshape_activations"] == "hook_z"
    assert sae.load(tmp_path).hook_name == "blocks.0.attn.hook_z"
