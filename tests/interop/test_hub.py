"""Dictionaries that are fetched from a hub on this machine, by the hub's own client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_stand_in import TOKEN, Hub, Repository, serving
from huggingface_hub import constants

import sae
from sae.architectures import TopKConfig
from sae.hub.transfer import HubPath, fetch


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(monkeypatch, tmp_path / "home") as hub:
        yield hub


def _files(tmp_path: Path, seed: int = 0) -> dict[str, bytes]:
    folder = tmp_path / f"dictionary {seed}"
    dictionary = TopKConfig(d_sae=8, k=2).build(4, seed=seed)
    dictionary.provenance = sae.Provenance.from_metadata({"hook_name": "blocks.1.hook_resid_pre"})
    sae.save(dictionary, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


@pytest.fixture
def repository(hub: Hub, tmp_path: Path) -> Repository:
    """Two dictionaries side by side, one of another seed, and another project's file."""
    hub.repositories["user/repo"] = Repository()
    hub.repositories["user/repo"].commit(
        _below("layer_0", _files(tmp_path))
        | _below("layer_1", _files(tmp_path, seed=1))
        | {"README.md": b"#", "z.pt": b"z", "z_cfg.json": b"{}", "other_cfg.json": b"{ }"}
    )
    return hub.repositories["user/repo"]


def _refusal(address: str) -> str:
    with pytest.raises(sae.InputError) as refused:
        sae.load(address)
    message = str(refused.value)
    assert "\n" not in message and TOKEN not in message
    return message


# Addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://user/repo", HubPath(repo="user/repo")),
        ("hf://user/repo/", HubPath(repo="user/repo")),
        ("hf://user/repo/a/b.pt", HubPath(repo="user/repo", path="a/b.pt")),
        ("hf://user/repo@v1/a", HubPath(repo="user/repo", revision="v1", path="a")),
        ("hf://user/repo@refs%2Fpr%2F1", HubPath(repo="user/repo", revision="refs/pr/1")),
        ("hf://u/r/x.hook_mlp_out_24576:v1", HubPath(repo="u/r", path="x.hook_mlp_out_24576:v1")),
    ],
)
def test_an_address_names_a_repository_a_revision_and_a_path(
    address: str, expected: HubPath
) -> None:
    assert HubPath.parse(address) == expected
    assert HubPath.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://user",
        "hf://user/",
        "hf:///repo",
        "hf://u/r@/a",
        "hf://u/r/../x",
        "hf://u/r/a//b",
    ],
)
def test_an_address_that_names_no_repository_or_leaves_it_is_refused(address: str) -> None:
    assert "hf://user/repo@revision/path" in _refusal(address)


# Fetching ----------------------------------------------------------------------------------------


def test_a_dictionary_comes_bit_for_bit_and_says_its_source_and_commit(
    hub: Hub, repository: Repository
) -> None:
    fetched = sae.load("hf://user/repo/layer_1")
    assert torch.equal(fetched.W_dec, TopKConfig(d_sae=8, k=2).build(4, seed=1).W_dec)
    assert fetched.provenance.to_metadata() == {
        "hook_name": "blocks.1.hook_resid_pre",
        "source": "hf://user/repo/layer_1",
        "revision": repository.refs["main"],
    }


def test_only_the_files_of_the_dictionary_are_fetched(hub: Hub, repository: Repository) -> None:
    fetch("hf://user/repo/layer_1")
    assert sorted(hub.fetched()) == ["layer_1/cfg.json", "layer_1/sae_weights.safetensors"]


def test_a_file_comes_with_the_config_that_is_named_after_it(
    hub: Hub, repository: Repository
) -> None:
    fetched = fetch("hf://user/repo/z.pt")
    assert fetched.path.read_bytes() == b"z"
    assert sorted(hub.fetched()) == ["z.pt", "z_cfg.json"]


def test_what_a_run_says_of_all_its_dictionaries_comes_from_the_folders_above(
    hub: Hub, repository: Repository
) -> None:
    repository.commit({f"run/_7/{name}": b"a" for name in ("learned_dicts.pt", "other.pt")})
    repository.commit({"run/means.pt": b"m", "run/config.yaml": b"c", "run/huge.bin": b"h"})
    folder = fetch("hf://user/repo/run/_7/learned_dicts.pt").path.parent
    assert (folder.parent / "means.pt").read_bytes() == b"m"
    assert sorted(hub.fetched())[1:] == ["run/config.yaml", "run/means.pt"]


def test_of_a_repository_without_a_path_only_what_lies_on_top_is_fetched(
    hub: Hub, repository: Repository
) -> None:
    repository.commit({"layer_1/more/huge.bin": b"x"})
    fetch("hf://user/repo")
    assert sorted(hub.fetched()) == ["README.md", "other_cfg.json", "z.pt", "z_cfg.json"]


@pytest.mark.parametrize("folder", ["v5_32k_layer_0.pt", "gpt2_blocks.0.mlp_24576:v1", "a[0]/b"])
def test_folders_may_end_in_pt_and_have_colons_and_brackets(
    hub: Hub, repository: Repository, tmp_path: Path, folder: str
) -> None:
    repository.commit(_below(folder, _files(tmp_path)))
    assert sae.load(f"hf://user/repo/{folder}").d_sae == 8


def test_folders_in_the_folder_are_left_but_for_weights_that_its_config_has_there(
    hub: Hub, repository: Repository
) -> None:
    repository.commit({"a/hyperparams.json": b"{}", "a/checkpoints/final.safetensors": b"x"})
    repository.commit({"a/checkpoints/old/1.safetensors": b"x", "a/other/x": b"x"})
    folder = fetch("hf://user/repo/a").path
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert sorted(found) == ["checkpoints/final.safetensors", "hyperparams.json"]


def test_a_revision_is_pinned_and_stays_what_it_was(
    hub: Hub, repository: Repository, tmp_path: Path
) -> None:
    first = repository.refs["main"]
    repository.refs["v1"] = first
    second = repository.commit(_below("layer_1", _files(tmp_path, seed=2)))
    for revision, commit, seed in (("", second, 2), ("@v1", first, 1), (f"@{first}", first, 1)):
        fetched = sae.load(f"hf://user/repo{revision}/layer_1")
        assert fetched.provenance.to_metadata()["revision"] == commit
        assert torch.equal(fetched.W_dec, TopKConfig(d_sae=8, k=2).build(4, seed=seed).W_dec)


def test_what_was_fetched_once_is_there_without_network(
    hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = sae.load("hf://user/repo/layer_1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = sae.load("hf://user/repo/layer_1")
    assert offline.provenance.to_metadata() == online.provenance.to_metadata()
    assert torch.equal(offline.W_dec, online.W_dec)
    assert "name the local folder instead" in _refusal("hf://user/repo/layer_0")


def test_private_repositories_are_read_with_the_token(
    hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.private = True
    message = _refusal("hf://user/repo/layer_1")
    assert "shows no repository user/repo (status 401)" in message and "HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "hf_" + "wrong" * 7)
    assert "status 401" in _refusal("hf://user/repo/layer_1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetched = sae.load("hf://user/repo/layer_1")
    assert TOKEN not in str(fetched.provenance.to_metadata())


# What goes wrong ---------------------------------------------------------------------------------


def test_a_path_that_is_not_there_is_named(hub: Hub, repository: Repository) -> None:
    assert "user/repo on the hub has no layer_7" in _refusal("hf://user/repo/layer_7")


def test_a_repository_that_is_not_there_is_named(hub: Hub) -> None:
    assert "the hub shows no repository user/none" in _refusal("hf://user/none/layer_1")


def test_a_revision_that_is_not_there_is_named(hub: Hub, repository: Repository) -> None:
    assert "has no revision v9" in _refusal("hf://user/repo@v9/layer_1")


def test_a_name_that_no_repository_can_have_is_refused(hub: Hub) -> None:
    assert "cannot be a repository" in _refusal("hf://user/re po--x/layer_1")


def test_an_answer_that_is_cut_off_is_no_dictionary_and_is_fetched_again(
    hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.damaged = {"layer_1/sae_weights.safetensors"}
    assert "cannot reach hf://user/repo/layer_1" in _refusal("hf://user/repo/layer_1")
    hub.damaged = set()
    assert sae.load("hf://user/repo/layer_1").d_sae == 8


def test_weights_that_are_damaged_on_the_hub_are_refused_with_the_address(
    hub: Hub, repository: Repository
) -> None:
    repository.commit({"layer_1/sae_weights.safetensors": b"not weights"})
    message = _refusal("hf://user/repo/layer_1")
    assert message.startswith("hf://user/repo/layer_1 ") and "damaged" in message


def test_a_hub_that_does_not_answer_is_told_at_once_with_what_to_do(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    message = _refusal("hf://user/repo/layer_1")
    assert "cannot reach hf://user/repo/layer_1 (ConnectError)" in message
    assert message.endswith("or download it elsewhere and name the local folder instead")


def test_a_cache_that_cannot_be_written_is_told_as_such(
    hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert "(Not a directory)" in _refusal("hf://user/repo/layer_1")
