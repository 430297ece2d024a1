"""What is refused of a grid file. Types are not checked while it is read, as for a user."""

import re
from pathlib import Path
from typing import Any

import pytest
import sweep as sweep_script
from in_process import called
from refusals import refusal_of

from sae.runs.settings.grid import member_settings, read_grid
from sae.runs.settings.run_settings import RunSettings


def members(path: Path, **given: Any) -> dict[str, RunSettings]:
    return member_settings(read_grid(path), given, where="the grid")


def written(folder: Path, content: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(content)
    return path


def deep(levels: int) -> str:
    return "grid: " + "[" * levels + "]" * levels


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join(6 * [f'*a{i - 1}'])}]" for i in range(1, 7)]
)
"""6**7 = 279,936 leaves in a few lines; a real one has more."""

NO_GRIDS = {
    "no file content": ("", "must map"),
    "a word": ("topk", "must map"),
    "a list at the top": ("- {k: 4}", "must map"),
    "not YAML": ("grid: [", "cannot read"),
    "two documents": ("grid: [{k: 4}]\n---\ngrid: [{k: 4}]", "cannot read"),
    "a tab": ("grid:\n\t- {k: 4}", "cannot read"),
    "an unknown anchor": ("grid: *nowhere", "cannot read"),
    "a date that does not exist": ("n_tokens: 2001-13-45\ngrid: [{k: 4}]", "cannot read|n_tokens"),
    "a number of 5,000 digits": (f"seed: {'1' * 5000}\ngrid: [{{k: 4}}]", "cannot read|seed"),
    "no end of lists": (deep(600), "cannot read"),
    "no grid": ("d_sae: 64", "needs a list under `grid`"),
    "a grid of nothing": ("grid:", "needs a list under `grid`"),
    "an empty grid": ("grid: []", "needs a list under `grid`"),
    "a mapping for a grid": ("grid: {k: 4}", "needs a list under `grid`"),
    "the config.json of a run": ('{"settings": {"k": 4}, "versions": {}}', "needs a list.*`grid`"),
    "a number for an entry": ("grid: [4]", "4.*map names to values"),
    "nothing for an entry": ("grid: [{k: 4}, null]", "None.*map names to values"),
    "a list for an entry": ("grid: [[{k: 4}]]", "map names to values"),
    "a bomb for an entry": (f"{BOMB}\ngrid: *a6", "map names to values"),
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


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("kind", ["missing", "a folder", "no text"])
def test_a_grid_file_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    path, out = tmp_path / "grid.yaml", tmp_path / "sweep"
    if kind == "a folder":
        path.mkdir()
    if kind == "no text":
        path.write_bytes(b"\xff\xfe\x00grid")
    assert re.search(
        "cannot read.*grid.yaml", refusal_of(called(sweep_script.main, path, "--out", out), out)
    )


@pytest.mark.usefixtures("no_model")
def test_a_grid_file_runs_no_code(tmp_path: Path) -> None:
    trace, out = tmp_path / "trace", tmp_path / "sweep"
    path = written(tmp_path, f"grid: !!python/object/apply:os.mkdir [{trace}]")
    done = called(sweep_script.main, path, "--out", out)
    assert re.search("cannot read", refusal_of(done, out))
    assert not trace.exists()


BAD_VALUES = {
    # Names
    "{kk: 4}": "kk",
    "{batch_tokens: [64, 128]}": "batch_tokens",
    "{out: elsewhere}": "out",
    "{data_seed: [0, 1]}": "data_seed",
    "{cache: elsewhere}": "cache",
    "{4: 4}": "4",
    # How many
    "{k: []}": "k",
    "{k: [], seed: [0, 1]}": "k",
    # Kinds
    "{k: [a]}": "k",
    "{k: [[4]]}": "k",
    "{k: {a: 4}}": "k",
    "{k: true}": "k",
    "{k: 1.5}": "k",
    "{d_sae: 64.5}": "d_sae",
    "{architecture: relu, d_sae: true}": "d_sae",
    "{d_sae: null}": "d_sae",
    "{seed: true}": "seed",
    "{seed: 1.5}": "seed",
    "{seed: null}": "seed",
    "{tied: maybe}": "tied",
    "{tied: null}": "tied",
    "{lr: fast}": "lr",
    "{lr: true}": "lr",
    "{n_tokens: many}": "n_tokens",
    "{n_tokens: 1.5}": "n_tokens",
    "{n_tokens: .inf}": "n_tokens",
    "{n_tokens: .nan}": "n_tokens",
    "{architecture: null}": "architecture",
    "{architecture: [[topk]]}": "architecture",
    "{architecture: {topk: 1}}": "architecture",
    "{products: null}": "products",
    "{products: [[float32]]}": "products",
    "{hook_name: null}": "hook_name",
    "{hook_name: 5}": "hook_name",
    "{hook_name: [5]}": "hook_name",
    # Sizes
    "{d_sae: -1}": "d_sae must be at least 1, got -1",
    "{d_sae: 0}": "d_sae must be at least 1, got 0",
    "{n_tokens: 0}": "n_tokens must be at least 1, got 0",
    "{lr: 0}": "lr must be positive, got 0",
    "{lr: .nan}": "lr must be a number, got nan",
    "{k: 0}": "k must be in 1",
    "{k: 65}": r"k must be in 1..d_sae \(64\), got 65",
    "{k: .inf}": "k",
    "{architecture: relu, l1_coeff: -1}": "l1_coeff must not be negative, got -1",
    "{architecture: relu, l1_coeff: .nan}": "l1_coeff",
    "{architecture: relu, l1_coeff: .inf}": "l1_coeff",
    "{architecture: jumprelu, l0_coeff: .nan}": "l0_coeff",
    # What does not belong together
    "{architecture: relu, k: 4}": "k is no setting of the architecture relu",
    "{architecture: topk, l1_coeff: 1}": "l1_coeff is no setting of the architecture topk",
    "{architecture: [topk, relu], k: 4}": "k is no setting of the architecture relu",
    "{architecture: magic}": "architecture must be one of .*, got 'magic'",
    "{products: float64}": "products must be one of .*, got 'float64'",
    "{architecture: relu, products: screened}": "products 'screened'",
    # Twice the same
    "{k: [4, 4]}": "k4 twice",
    "{k: [4, 4.0]}": "twice",
    "{lr: [1e-3, 0.001]}": "twice",
    "{k: 4}, {k: 4}": "k4 twice",
    "{k: 4, seed: 0}, {seed: [1, 0], k: 4}": "twice",
    "{seed: [0, 1]}, {architecture: topk, seed: 1}": "twice",
    "{k: 32}, {architecture: topk}": "twice",
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
    "kk: 4": "unknown settings: kk",
    "true: 4": "unknown settings: True",
    "batch_tokens: null": "batch_tokens",
    "batch_tokens: 1.5": "batch_tokens",
    "eval_tokens: null": "eval_tokens",
    "log_every: null": "log_every",
    "log_every: 0": "log_every must be at least 1, got 0",
    "epochs: null": "epochs",
    "epochs: 2": "epochs are passes over a cache",
    "dataset: 5": "dataset",
    "dataset: null": "dataset",
    "model: 5": "model",
    "cache: 5": "cache",
    "device: 5": "device",
    "device: null": "device",
    "dtype: int8": "dtype must be one of .*, got 'int8'",
    "out: 5": "out",
    "wandb: sometimes": "wandb",
    "wandb: 5": "wandb",
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
