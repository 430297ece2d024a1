"""The directory of published dictionaries, against what SAELens' own directory says of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_stand_in import Hub, Repository, serving

import sae
from sae import loading as module
from sae.architectures import TopKConfig
from sae.hub.releases import locate, releases
from sae.hub.transfer import HubPath
from sae.loading import load_release

GPT2 = {
    "gpt2-small-res-jb": 13,
    "gpt2-small-res-jb-feature-splitting": 8,
    "gpt2-small-mlp-tm": 12,
    "gpt2-small-hook-z-kk": 12,
    **{
        f"gpt2-small-{site}-v5-{width}": 12
        for site in ("resid-post", "resid-mid", "mlp-out", "attn-out")
        for width in ("32k", "128k")
    },
    **{f"gpt2-small-res_{of}-ajt": 3 for of in ("sce", "scefr", "scl", "sle", "slefr", "sll")},
}
"""The releases of GPT-2 small and how many dictionaries each has."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(monkeypatch, tmp_path / "home") as hub:
        yield hub


def _refusal(release: str, hook_name: str) -> str:
    with pytest.raises(sae.InputError) as refused:
        locate(release, hook_name)
    message = str(refused.value)
    assert "\n" not in message and len(message) < 900
    return message


# Where they are ----------------------------------------------------------------------------------


def test_all_eighteen_releases_of_gpt2_small_are_known_with_all_their_dictionaries() -> None:
    known = {release.name: len(release.entries) for release in releases()}
    assert len(GPT2) == 18
    assert {name: known[name] for name in GPT2} == GPT2


@pytest.mark.parametrize(
    ("release", "hook_name", "address"),
    [
        (
            "gpt2-small-res-jb",
            "blocks.11.hook_resid_post",
            "hf://jbloom/GPT2-Small-SAEs-Reformatted/blocks.11.hook_resid_post",
        ),
        (
            "gpt2-small-resid-post-v5-32k",  # folders that end in .pt
            "blocks.8.hook_resid_post",
            "hf://jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs/v5_32k_layer_8.pt",
        ),
        (
            "gpt2-small-resid-post-v5-128k",  # and the others do not
            "blocks.8.hook_resid_post",
            "hf://jbloom/GPT2-Small-OAI-v5-128k-resid-post-SAEs/v5_128k_layer_8",
        ),
        (
            "gpt2-small-attn-out-v5-128k",
            "blocks.0.hook_attn_out",
            "hf://jbloom/GPT2-Small-OAI-v5-128k-attn-out-SAEs/v5_128k_layer_0",
        ),
        (
            "gpt2-small-mlp-tm",  # a colon, and versions that differ by layer
            "blocks.11.hook_mlp_out",
            "hf://tommmcgrath/gpt2-small-mlp-out-saes/"
            "sae_group_gpt2_blocks.11.hook_mlp_out_24576:v2",
        ),
        (
            "gpt2-small-hook-z-kk",
            "blocks.11.attn.hook_z",
            "hf://ckkissane/attn-saes-gpt2-small-all-layers/gpt2-small_L11_Hcat_z_lr1.20e-03_"
            "l13.00e+00_ds24576_bs4096_dc3.16e-06_rsanthropic_rie25000_nr4_v9.pt",
        ),
        (
            "gpt2-small-res_slefr-ajt",
            "blocks.10.hook_resid_pre",
            "hf://neuronpedia/gpt2-small__res_slefr-ajt/10-res_slefr-ajt",
        ),
        (
            "openai-gpt2-small-v5-128k",  # in blob storage
            "blocks.3.hook_resid_mid",
            "az://openaipublic/sparse-autoencoder/gpt2-small/resid_post_attn_v5_128k/"
            "autoencoders/3.pt",
        ),
        (
            "openai-gpt2-small-v1",
            "blocks.3.mlp.hook_post",
            "az://openaipublic/sparse-autoencoder/gpt2-small/mlp_post_act/autoencoders/3.pt",
        ),
        (
            "gemma-scope-2b-pt-res",
            "layer_12/width_65k/average_l0_72",
            "hf://google/gemma-scope-2b-pt-res/layer_12/width_65k/average_l0_72",
        ),
        (
            "gemma-scope-2b-pt-res-canonical",
            "blocks.12.hook_resid_post",
            "hf://google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82",
        ),
        (
            "gemma-scope-2-4b-it",
            "resid_post/layer_17_width_16k_l0_big",
            "hf://google/gemma-scope-2-4b-it/resid_post/layer_17_width_16k_l0_big",
        ),
        (
            "llama_scope_lxr_32x",
            "l15r_32x",
            "hf://fnlp/Llama3_1-8B-Base-LXR-32x/Llama3_1-8B-Base-L15R-32x",
        ),
    ],
)
def test_a_dictionary_is_found_by_its_site_or_its_id(
    release: str, hook_name: str, address: str
) -> None:
    assert locate(release, hook_name).address == address


def test_every_dictionary_has_an_address_and_a_name_of_its_own() -> None:
    known = releases()
    assert len({release.name for release in known}) == len(known)
    for release in known:
        closed = [entry for entry in release.entries if "{" not in entry.id]
        assert len({entry.id for entry in closed}) == len(closed)
        for entry in closed:
            location = release.locate(entry.id)
            assert not any(
                "{" in str(text) for text in (location.address, *location.facts.values())
            )
            if location.address.startswith("hf://"):
                assert str(HubPath.parse(location.address)) == location.address


# What their files leave out ----------------------------------------------------------------------


def test_sites_of_releases_that_are_centred_say_so() -> None:
    for release in ("gpt2-small-res-jb", "gpt2-small-mlp-tm"):
        site = "hook_mlp_out" if release.endswith("tm") else "hook_resid_pre"
        assert locate(release, f"blocks.8.{site}").facts["processing"] == "centred"
    splitting = locate("gpt2-small-res-jb-feature-splitting", "blocks.8.hook_resid_pre_768")
    assert splitting.facts == {
        "model_name": "gpt2",
        "processing": "centred",
        "hook_name": "blocks.8.hook_resid_pre",
    }
    raw = locate("gpt2-small-resid-mid-v5-32k", "blocks.8.hook_resid_mid")
    assert raw.facts["processing"] == "raw"


def test_norm_scaling_factors_are_in_full_precision() -> None:
    assert locate("gpt2-small-mlp-tm", "blocks.0.hook_mlp_out").norm_scaling_factor == (
        1.049317316132615
    )
    assert locate("llama_scope_r1_distill", "l31r_800m_openr1_math").norm_scaling_factor == (
        0.926395749048437
    )
    assert locate("gpt2-small-res-jb", "blocks.0.hook_resid_pre").norm_scaling_factor is None


def test_hook_z_has_its_transformerlens_name_and_the_width_that_differs_by_layer() -> None:
    fifth = locate("gpt2-small-hook-z-kk", "blocks.5.hook_z")
    assert fifth == locate("gpt2-small-hook-z-kk", "blocks.5.attn.hook_z")
    assert fifth.facts["hook_name"] == "blocks.5.attn.hook_z"
    assert fifth.published.d_sae == 49152
    assert locate("gpt2-small-hook-z-kk", "blocks.4.hook_z").published.d_sae == 24576


def test_published_figures_say_how_far_they_can_be_trusted() -> None:
    published = locate("gpt2-small-res-jb", "blocks.8.hook_resid_pre").published
    assert (published.l0, published.variance_explained, published.d_sae) == (60.0, 0.9, 24576)
    assert str(published).startswith("l0 60, variance explained 0.9 (rounded")
    assert str(locate("gpt2-small-res_sce-ajt", "blocks.2.hook_resid_pre").published) == ""


def test_a_transcoder_names_both_its_sites() -> None:
    facts = locate("gemma-scope-2b-pt-transcoders", "layer_4/width_16k/average_l0_88").facts
    assert facts["hook_name"] == "blocks.4.ln2.hook_normalized"
    assert facts["hook_name_out"] == "blocks.4.hook_mlp_out"


# What is not there -------------------------------------------------------------------------------


def test_an_unknown_release_is_refused_with_the_names_that_are_like_it() -> None:
    message = _refusal("gpt2-small-res-bj", "blocks.8.hook_resid_pre")
    assert "unknown release 'gpt2-small-res-bj'" in message and "gpt2-small-res-jb," in message


def test_an_unknown_site_is_refused_with_those_there_are() -> None:
    message = _refusal("gpt2-small-res_sce-ajt", "blocks.3.hook_resid_pre")
    assert message.endswith(
        "name one of blocks.2.hook_resid_pre, blocks.6.hook_resid_pre, blocks.10.hook_resid_pre"
    )
    assert "l{layer}r" not in _refusal("llama_scope_r1_distill", "blocks.3.hook_resid_post")


def test_a_site_with_several_dictionaries_is_refused_with_their_ids() -> None:
    message = _refusal("gpt2-small-res-jb-feature-splitting", "blocks.8.hook_resid_pre")
    assert "several" in message and "blocks.8.hook_resid_pre_98304" in message


@pytest.mark.parametrize(
    "name", ["layer_x/width_16k/average_l0_1", "layer_1/width_16k/average_l0_"]
)
def test_a_name_that_does_not_fit_the_pattern_is_refused_with_the_pattern(name: str) -> None:
    assert "layer_{layer}/width_{width}/average_l0_{l0}" in _refusal("gemma-scope-2b-pt-mlp", name)


# Loading -----------------------------------------------------------------------------------------


def test_a_release_is_loaded_from_the_hub_and_what_is_known_of_it_overrides_its_files(
    hub: Hub, tmp_path: Path
) -> None:
    dictionary = TopKConfig(d_sae=8, k=2).build(4)
    dictionary.provenance = sae.Provenance.from_metadata({"processing": "raw", "context_size": 64})
    sae.save(dictionary, tmp_path / "d")
    repository = hub.repositories["jbloom/GPT2-Small-SAEs-Reformatted"] = Repository()
    folder = "blocks.8.hook_resid_pre"
    files = {f"{folder}/{path.name}": path.read_bytes() for path in (tmp_path / "d").iterdir()}
    commit = repository.commit(files)
    loaded = load_release("gpt2-small-res-jb", folder)
    assert torch.equal(loaded.W_dec, dictionary.W_dec)
    assert loaded.provenance.to_metadata() == {
        "context_size": 64,
        "model_name": "gpt2",
        "hook_name": folder,
        "processing": "centred",
        "source": f"hf://jbloom/GPT2-Small-SAEs-Reformatted/{folder}",
        "revision": commit,
    }


def test_the_norm_scaling_factor_reaches_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def remember(path: str, **hints: Any) -> sae.SAE:
        asked.update(hints)
        return TopKConfig(d_sae=8, k=2).build(4)

    monkeypatch.setattr(module, "load", remember)
    load_release("gpt2-small-mlp-tm", "blocks.10.hook_mlp_out")
    assert asked["norm_scaling_factor"] == 0.3619728926727644


def test_what_is_not_on_the_hub_is_refused_with_where_it_is() -> None:
    with pytest.raises(sae.InputError, match=r"^az://openaipublic/.*/8\.pt is not on the Hugging"):
        load_release("openai-gpt2-small-v5-32k", "blocks.8.hook_mlp_out")
