"""HoagyC's sparse_coding: sweeps of Cunningham et al. compute here what they compute there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sparse_coding_files import (
    D_IN,
    D_SAE,
    DICTIONARIES,
    LearnedDict,
    OldTiedSAE,
    TiedSAE,
    UntiedSAE,
    assert_same,
    encoder_of,
    identity,
    name_as_in_the_original,
    random,
    save,
)

import sae


@pytest.fixture(autouse=True)
def original(monkeypatch: pytest.MonkeyPatch) -> None:
    name_as_in_the_original(monkeypatch)


@pytest.mark.parametrize("make", DICTIONARIES.values(), ids=DICTIONARIES)
def test_features_and_reconstruction_are_those_of_predict(
    tmp_path: Path, make: Callable[[], LearnedDict]
) -> None:
    save(tmp_path, make())
    assert_same(sae.load(tmp_path), make())
    assert_same(sae.load(tmp_path / "learned_dicts.pt"), make())


@pytest.mark.parametrize("make", DICTIONARIES.values(), ids=DICTIONARIES)
def test_means_that_the_sweep_subtracted_are_folded(
    tmp_path: Path, make: Callable[[], LearnedDict]
) -> None:
    means = random(D_IN, scale=2.0, seed=7)
    save(tmp_path / "run" / "_31", make())
    torch.save(means, tmp_path / "run" / "means.pt")
    assert_same(sae.load(tmp_path / "run" / "_31"), make(), means)
    save(tmp_path / "beside", make())
    torch.save(means, tmp_path / "beside" / "means.pt")
    assert_same(sae.load(tmp_path / "beside" / "learned_dicts.pt"), make(), means)
    assert_same(sae.load(tmp_path / "beside"), make(), means)


def test_means_above_a_folder_that_no_sweep_made_are_another_s(tmp_path: Path) -> None:
    save(tmp_path / "mine", DICTIONARIES["tied"]())
    torch.save(torch.ones(D_IN), tmp_path / "means.pt")
    assert_same(sae.load(tmp_path / "mine"), DICTIONARIES["tied"]())


def test_a_tied_dictionary_stays_tied(tmp_path: Path) -> None:
    save(tmp_path, DICTIONARIES["tied"]())
    assert sae.load(tmp_path).cfg.tied
    save(tmp_path, DICTIONARIES["tied and centred"]())
    assert not sae.load(tmp_path).cfg.tied


def test_old_pickles_have_no_centre(tmp_path: Path) -> None:
    weights = encoder_of(norm_encoder=True)
    save(tmp_path, TiedSAE(**weights))
    assert_same(sae.load(tmp_path), OldTiedSAE(**weights))


def test_rows_that_are_zero_are_no_division_by_zero(tmp_path: Path) -> None:
    weights = encoder_of(norm_encoder=True)
    weights["encoder"][3] = 0.0
    save(tmp_path, TiedSAE(**weights, **identity()))
    assert_same(sae.load(tmp_path), TiedSAE(**weights, **identity()))


def test_members_of_an_ensemble_share_a_storage(tmp_path: Path) -> None:
    stacked = random(3, D_SAE, D_IN, seed=8)
    biases = random(3, D_SAE, seed=9)
    made = [UntiedSAE(encoder=e, decoder=e, encoder_bias=b) for e, b in zip(stacked, biases)]  # noqa: B905
    save(tmp_path, *made)
    for index, member in enumerate(made):
        assert_same(sae.load(tmp_path, index=index), member)


def test_half_precision_is_read_in_float32(tmp_path: Path) -> None:
    whole = DICTIONARIES["untied"]()
    half = {name: getattr(whole, name).half() for name in ("encoder", "decoder", "encoder_bias")}
    save(tmp_path, UntiedSAE(**half))
    ours = sae.load(tmp_path)
    assert ours.dtype == torch.float32
    assert_same(ours, UntiedSAE(**{name: tensor.float() for name, tensor in half.items()}))


# Several in a file -------------------------------------------------------------------------------


def test_an_index_chooses_from_a_file_of_several(tmp_path: Path) -> None:
    made = [DICTIONARIES[name]() for name in ("tied", "untied", "reverse")]
    save(tmp_path, *made)
    for index, member in enumerate(made):
        assert_same(sae.load(tmp_path, index=index), member)


def test_without_an_index_the_choices_are_listed_on_one_line(tmp_path: Path) -> None:
    save(tmp_path, *(DICTIONARIES[name]() for name in ("tied", "untied")))
    with pytest.raises(sae.InputError) as refused:
        sae.load(tmp_path)
    line = str(refused.value)
    assert (
        "holds 2 dictionaries, choose one by its index: 0: TiedSAE, l1_alpha 0, dict_size 32; 1: "
    )
    assert "1: UntiedSAE, l1_alpha 0.001, dict_size 32" in line and "\n" not in line


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: int) -> None:
    save(tmp_path, *(DICTIONARIES[name]() for name in ("tied", "untied")))
    with pytest.raises(sae.InputError, match=rf"holds 2 dictionaries and none of index {index}"):
        sae.load(tmp_path, index=index)


def test_the_list_of_a_large_sweep_is_cut(tmp_path: Path) -> None:
    save(tmp_path, *(DICTIONARIES["untied"]() for _ in range(40)))
    with pytest.raises(sae.InputError) as refused:
        sae.load(tmp_path)
    assert "holds 40 dictionaries" in str(refused.value) and len(str(refused.value)) < 1000


# What is known of the run ------------------------------------------------------------------------


SETTINGS = """\
dataset_name: openwebtext
dtype: !!python/object/apply:os.system ['touch trace']
layer: 3
layer_loc: {site}
model_name: EleutherAI/pythia-70m-deduped
nested:
  layer: 5
"""


@pytest.mark.parametrize(
    ("site", "hook_name"),
    [
        ("residual", "blocks.3.hook_resid_post"),
        ("mlp", "blocks.3.mlp.hook_post"),
        ("mlpout", "blocks.3.hook_mlp_out"),
        ("attn_concat", "blocks.3.attn.hook_z"),
        ("attn", None),
    ],
)
def test_the_settings_of_the_sweep_say_model_and_site(
    tmp_path: Path, site: str, hook_name: str | None
) -> None:
    save(tmp_path, DICTIONARIES["tied"]())
    (tmp_path / "config.yaml").write_text(SETTINGS.format(site=site))
    ours = sae.load(tmp_path)
    assert ours.provenance.to_metadata()["model_name"] == "EleutherAI/pythia-70m-deduped"
    assert ours.provenance.to_metadata()["dataset_path"] == "openwebtext"
    assert ours.hook_name == hook_name
    assert not Path("trace").exists()


def test_without_settings_nothing_is_guessed(tmp_path: Path) -> None:
    save(tmp_path, DICTIONARIES["tied"]())
    assert sae.load(tmp_path).provenance.to_metadata() == {}


def test_a_centred_run_without_its_means_is_refused(tmp_path: Path) -> None:
    save(tmp_path, DICTIONARIES["tied"]())
    (tmp_path / "config.yaml").write_text("center_activations: true\n")
    with pytest.raises(sae.InputError, match=r"means.pt, with their means, is missing"):
        sae.load(tmp_path)


def test_means_of_another_width_are_refused(tmp_path: Path) -> None:
    save(tmp_path, DICTIONARIES["tied"]())
    torch.save(torch.ones(D_IN + 1), tmp_path / "means.pt")
    with pytest.raises(sae.InputError, match=r"means.pt in .* is of shape \(9,\), expected \(8,\)"):
        sae.load(tmp_path)
