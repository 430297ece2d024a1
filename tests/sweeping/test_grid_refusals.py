"""What is refused of a grid file. Types are not checked while it is read, as for a user."""

import re
from pathlib import Path
from typing import Any

import pytest
from in_process import called
from refusals import refusal_of

from sae.commands import sweep as sweep_script
from sae.runs.settings.grid import member_settings, read_grid
from sae.runs.settings.run_settings import RunSettings


def members(path: Path, **given: Any) -> dict[str, RunSettings]:
    return member_settings(read_grid(path), given, where="the grid")


def written(folder: Path, content: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(content)
    return path


NO_GRIDS = {
    "two documents": ("grid: [{k: 4}]\n---\ngrid: [{k: 4}]", "cannot read"),
    "no grid": ("d_sae: 64", "needs a list under `grid`"),
    "an empty grid": ("grid: []", "needs a list under `grid`"),
    "a mapping for a grid": ("grid: {k: 4}", "needs a list under `grid`"),
    "the config.json of a run": ('{"settings": {"k": 4}, "versions": {}}', "needs a list.*`grid`"),
    "a number for an entry": ("grid: [4]", "4.*map names to values"),
    "an entry that holds itself": ("grid: &a [*a]", "map names to values"),
}


@pytest.mark.usefixtures("as_installed", "no_model")
@pytest.mark.parametrize(("content", "message"), NO_GRIDS.values(), ids=NO_GRIDS)
def test_a_file_that_is_no_grid_is_refused(tmp_path: Path, content: str, message: str) -> None:
    out = tmp_path / "sweep"
    assert re.search(
        message,
        refusal_of(called(sweep_script.main, written(tmp_path, content), "--out", out), out),
    )


BAD_VALUES = {
    # Names
    "{kk: 4}": "kk",
    "{batch_tokens: [64, 128]}": "batch_tokens",
    "{out: elsewhere}": "out",
    "{4: 4}": "4",
    # How many
    "{k: []}": "k",
    # Kinds
    "{k: [[4]]}": "k",
    "{k: {a: 4}}": "k",
    "{d_sae: 64.5}": "d_sae",
    "{architecture: {topk: 1}}": "architecture",
    "{hook_name: [5]}": "hook_name",
    # Sizes
    "{lr: .nan}": "lr must be a finite number, got nan",
    "{k: 65}": r"k must be in 1..d_sae \(64\), got 65",
    # What does not belong together
    "{architecture: [topk, relu], k: 4}": "unknown settings for the architecture relu: k",
    "{architecture: relu, products: screened}": "products 'screened'",
    # Twice the same
    "{k: [4, 4.0]}": "twice",
    "{k: 4, seed: 0}, {seed: [1, 0], k: 4}": "twice",
    "{k: 32}, {architecture: batch_topk}": "twice",
}


@pytest.mark.usefixtures("as_installed", "no_model")
@pytest.mark.parametrize(("entries", "message"), BAD_VALUES.items(), ids=BAD_VALUES)
def test_a_member_that_cannot_be_is_refused_with_the_setting_named(
    tmp_path: Path, entries: str, message: str
) -> None:
    out = tmp_path / "sweep"
    path = written(tmp_path, f"d_sae: 64\nwandb: 'off'\ngrid: [{entries}]")
    name = message if " " in message else rf"\b{message}\b"
    done = called(sweep_script.main, path, "--out", out)
    assert re.search(name, refusal_of(done, out))


BAD_SHARED = {
    "kk: 4": "unknown settings for the architecture batch_topk: kk",
    "true: 4": "unknown settings for the architecture batch_topk: True",
    "log_every: 0": "log_every must be at least 1, got 0",
    "epochs: 2": "epochs are passes over a cache",
    "out: 5": "out",
    "wandb: on": "wandb",
}


@pytest.mark.usefixtures("as_installed", "no_model")
@pytest.mark.parametrize(("line", "message"), BAD_SHARED.items(), ids=BAD_SHARED)
def test_what_members_share_is_refused_with_the_setting_named(
    tmp_path: Path, line: str, message: str
) -> None:
    out = tmp_path / "sweep"
    path = written(tmp_path, f"{line}\nd_sae: 64\ngrid: [{{k: 4}}]")
    name = message if " " in message else rf"\b{message}\b"
    done = called(sweep_script.main, path, "--out", out)
    assert re.search(name, refusal_of(done, out))
