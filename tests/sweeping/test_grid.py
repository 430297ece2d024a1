"""What a grid file says, and what the script makes of it. Nothing is trained here."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from in_process import called
from refusals import refusal_of
from sweeps import listed

from activation_cache.common.errors import InputError
from sae.commands import sweep as sweep_script
from sae.runs.settings.grid import member_settings, read_grid
from sae.runs.settings.run_settings import RunSettings, settings_from_file


def members(path: Path, **given: Any) -> dict[str, RunSettings]:
    return member_settings(read_grid(path), given, where="the grid")


def written(folder: Path, content: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(content)
    return path


# What a grid file says ----------------------------------------------------------------------------


def test_every_combination_of_an_entry_is_a_member_named_by_what_varies(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        d_sae: 64
        n_tokens: 200_000
        grid:
          - {architecture: topk, k: [16, 32], seed: [0, 1]}
          - {architecture: relu, l1_coeff: 1, tied: [true, false], lr: 0.001}
        """,
    )
    found = members(path)
    assert list(found) == [
        "topk-k16-seed0",
        "topk-k16-seed1",
        "topk-k32-seed0",
        "topk-k32-seed1",
        "relu-l1_coeff1-tied-lr0.001",
        "relu-l1_coeff1-not_tied-lr0.001",
    ]
    settings = {name: member.to_dict() for name, member in found.items()}
    assert all((s["d_sae"], s["n_tokens"]) == (64, 200_000) for s in settings.values())
    assert (settings["topk-k32-seed1"]["k"], settings["topk-k32-seed1"]["seed"]) == (32, 1)
    tied = settings["relu-l1_coeff1-tied-lr0.001"]
    assert (tied["l1_coeff"], tied["lr"], tied["tied"]) == (1.0, 0.001, True)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("entry", "name", "number"),
    [
        ("{lr: 1e-3}", "lr", 0.001),  # a string to YAML
        ("{lr: 1}", "lr", 1.0),
        ("{architecture: relu, l1_coeff: 1}", "l1_coeff", 1.0),
        ("{k: 4.0}", "k", 4),
        ("{n_tokens: 2e5}", "n_tokens", 200_000),
    ],
)
def test_numbers_are_numbers_however_yaml_and_json_spell_them(
    tmp_path: Path, entry: str, name: str, number: float
) -> None:
    (settings,) = members(written(tmp_path, f"grid: [{entry}]")).values()
    found = settings.to_dict()[name]
    assert found == number and type(found) is type(number)


@pytest.mark.usefixtures("as_installed")
def test_wandb_off_in_a_file_is_off_although_yaml_reads_it_as_false(tmp_path: Path) -> None:
    (settings,) = members(written(tmp_path, "wandb: off\ngrid: [{k: 4}]")).values()
    assert settings.wandb == "off"
    assert settings_from_file(written(tmp_path, "wandb: off\nk: 4")).wandb == "off"


def test_flags_go_before_what_the_file_says(tmp_path: Path) -> None:
    path = written(tmp_path, "device: cuda:7\nwandb: online\ngrid: [{k: [2, 4]}]")
    found = members(path, device="cpu", wandb="off")
    assert {(s.device, s.wandb) for s in found.values()} == {("cpu", "off")}


def test_anchors_and_merged_keys_may_be_used(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        grid:
          - &base {architecture: topk, k: &ks [2, 4]}
          - {<<: *base, seed: 1}
          - {architecture: batch_topk, k: *ks}
        """,
    )
    assert len(members(path)) == 2 + 2 + 2


def test_an_entry_without_anything_is_the_one_member_that_the_top_describes(tmp_path: Path) -> None:
    (settings,) = members(written(tmp_path, "k: 4\ngrid: [{}]")).values()
    assert settings.to_dict()["k"] == 4


@pytest.mark.usefixtures("as_installed")
def test_a_large_seed_keeps_its_last_digit(tmp_path: Path) -> None:
    """Through a float, 2**53 + 1 would become 2**53."""
    found = members(written(tmp_path, f"grid: [{{seed: [{2**53}, {2**53 + 1}]}}]"))
    assert [s.seed for s in found.values()] == [2**53, 2**53 + 1]


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    "entry",
    [
        '{lr: " 1e-3\\n"}',
        '{k: "4 "}',
        f'{{lr: "0.001{"0" * 300}"}}',
        f'{{k: "{"0" * 300}4"}}',
        "{hook_name: blocks.1.mlp.hook_post, tied: true, products: bfloat16, lr: 0.001}",
    ],
)
def test_a_name_is_a_plain_folder_name_or_the_value_is_refused(tmp_path: Path, entry: str) -> None:
    path = written(tmp_path, f"grid: [{entry}]")
    try:
        (name,) = members(path)
    except InputError:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}", name), name


# The script ---------------------------------------------------------------------------------------


def test_help_names_every_flag() -> None:
    shown = called(sweep_script.main, "--help")
    assert shown.code == 0
    for flag in ("out", "resume", "members-per-pass", "device", "wandb"):
        assert f"--{flag}" in shown.out, flag


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grid.yaml", "--magic", "1"], "--magic"),
        (["grid.yaml", "--members-per-pass", "many"], "many"),
    ],
)
def test_flags_that_are_wrong_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "grid: [{k: 4}]")
    assert re.search(message, refusal_of(called(sweep_script.main, *arguments), tmp_path / "sweep"))
    assert list(listed(tmp_path)) == ["grid.yaml"]


@pytest.mark.usefixtures("no_model")
def test_a_folder_that_exists_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    path = written(tmp_path, "grid: [{k: 4}]")
    done = called(sweep_script.main, path, "--out", out)
    assert done.code == 2 and "--resume" in done.err and done.err.count("\n") == 1
    assert listed(out) == {"notes.txt": b"mine"}
