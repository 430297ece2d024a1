"""What the model, the text or the cache does not allow is refused before anything is trained."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process import called
from sweeps import MLP, RESID, TWO, Grid, count_steps, listed

from activation_cache import ActivationCache
from sae.commands import sweep as sweep_script
from sae.runs.sweep import SweepSettings


def assert_refused(settings: SweepSettings, message: str, *flags: str) -> None:
    """In one line, and with everything as it was."""
    around = settings.out.parent
    before = listed(around)
    done = called(
        sweep_script.main,
        *(settings.grid, "--out", settings.out, *flags),
        *(["--resume"] if settings.resume else []),
    )
    assert done.code == 2, done
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert re.search(message, done.err), done.err
    assert listed(around) == before


ODD_NAMES = {
    "unknown": "blocks.1.hook_magic",
    "up": "..",
    "nothing": "",
    "up behind a name": "blocks.1.hook_resid_pre/../../../escaped",
    "with a zero byte": "blocks.1.\0",
}


@pytest.mark.parametrize("hook_name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_a_site_that_the_model_does_not_have_costs_no_member_that_is_trained(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, hook_name: str
) -> None:
    grid = [*TWO, {"hook_name": hook_name}]
    grown = make(grid, out="undisturbed", n_tokens=192, resume=True)
    told = "hook name|is empty|does not exist|no folder can be named after|control characters"
    assert_refused(grown, told)


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ({"hook_name": [RESID, MLP]}, "2 sites: vary hook_name under `grid`"),
        ({"context_size": 64}, "context_size 64 is more than .* can see: give at most 32"),
        ({"dataset": "no/such/file.txt"}, "no text file at .*no/such/file.txt"),
        ({"model": "missing.gguf"}, "no GGUF file at missing.gguf"),
    ],
)
def test_what_only_the_model_or_the_text_shows_to_be_wrong_leaves_nothing_behind(
    make: Callable[..., SweepSettings],
    monkeypatch: pytest.MonkeyPatch,
    shared: dict[str, Any],
    message: str,
) -> None:
    if "model" in shared:
        from activation_cache import load_model

        monkeypatch.setattr("sae.runs.inputs.load_model", load_model)
    assert_refused(make(TWO, **shared), message)


@pytest.mark.parametrize(
    ("grid", "shared", "message"),
    [
        ([{"n_tokens": [64, 701]}], {}, "holds 700 rows of train.*give --epochs 2"),
        (
            [{"hook_name": [RESID, "blocks.0.hook_resid_pre"]}],
            {},
            "has no site blocks.0.hook_resid_pre",
        ),
        (TWO, {"hook_name": [RESID, MLP]}, "2 sites: vary hook_name under `grid`"),
        (TWO, {"model": "tiny"}, "model 'tiny' is not what the cache"),
    ],
)
def test_what_the_cache_does_not_hold_is_refused_and_leaves_nothing_behind(
    make: Callable[..., SweepSettings],
    cache: ActivationCache,
    grid: Grid,
    shared: dict[str, Any],
    message: str,
) -> None:
    assert_refused(make(grid, cache=cache.folder, **shared), message)


def test_what_is_wrong_with_a_later_pass_is_refused_before_the_first(
    make: Callable[..., SweepSettings], cache: ActivationCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = count_steps(monkeypatch)
    for grid in ([{"n_tokens": [64, 701]}], [{"hook_name": [RESID, "blocks.0.hook_mlp_out"]}]):
        assert_refused(
            make(grid, cache=cache.folder), "701|hook_mlp_out", "--members-per-pass", "1"
        )
    assert not taken


def test_without_a_site_a_cache_of_several_wants_one_to_be_named(
    make: Callable[..., SweepSettings], cache: ActivationCache
) -> None:
    settings = make(TWO, cache=cache.folder)
    content = json.loads(settings.grid.read_text())
    del content["hook_name"]
    settings.grid.write_text(json.dumps(content))
    assert_refused(settings, "2 sites: vary hook_name under `grid`")


@pytest.mark.parametrize("out", ["file", "file/sweep"])
def test_a_folder_that_cannot_be_written_to_is_refused(
    make: Callable[..., SweepSettings], tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").write_text("mine")
    settings = make(TWO, n_tokens=64)
    flags = ["--resume"] if out == "file" else []
    done = called(sweep_script.main, settings.grid, "--out", tmp_path / out, *flags)
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_is_read_only_is_refused(
    make: Callable[..., SweepSettings], tmp_path: Path
) -> None:
    settings = make(TWO, n_tokens=64)
    (tmp_path / "closed").mkdir(mode=0o500)
    done = called(sweep_script.main, settings.grid, "--out", tmp_path / "closed" / "sweep")
    assert done.code == 2 and done.err.count("\n") == 1, done.err


def test_a_seed_that_torch_cannot_take_is_refused(make: Callable[..., SweepSettings]) -> None:
    assert_refused(make([{"seed": [0, -(2**63) - 1]}]), "seed")
