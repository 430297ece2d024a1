"""Grid files, what is refused of them, and what is told of the members: fronts, table, picture.

Nothing is trained here, and no model is loaded. Types are not checked while a file is read, as for
a user: what beartype would refuse, the code has to refuse by itself.
"""

import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import sweep as sweep_script
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console
from sweeps import RESID, Done, called, listed

from sae.errors import InputError
from sae.runs.grid import member_settings, read_grid
from sae.runs.pareto import SweepRow, mark_fronts, write_plot
from sae.runs.settings import RunSettings, settings_from_file
from sae.runs.sweep import results_table


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Without the type checks that only tests have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid that gets as far as the model was not refused in time."""

    def load(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the grid was accepted: a model would be loaded now")

    monkeypatch.setattr("sae.runs.origin.load_model", load)


def members(path: Path, **given: Any) -> dict[str, RunSettings]:
    return member_settings(read_grid(path), given, where="the grid")


def written(folder: Path, content: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(content)
    return path


# What a grid file says ---------------------------------------------------------------------------


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
    assert all((s.d_sae, s.n_tokens) == (64, 200_000) for s in found.values())
    assert (found["topk-k32-seed1"].k, found["topk-k32-seed1"].seed) == (32, 1)
    tied = found["relu-l1_coeff1-tied-lr0.001"]
    assert (tied.l1_coeff, tied.lr, tied.tied) == (1.0, 0.001, True)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("entry", "name", "number"),
    [
        ("{lr: 1e-3}", "lr", 0.001),  # a string to YAML
        ("{lr: 1}", "lr", 1.0),
        ("{architecture: relu, l1_coeff: 1}", "l1_coeff", 1.0),
        ("{k: 4.0}", "k", 4),
        ("{n_tokens: 2e5}", "n_tokens", 200_000),
        ("{n_tokens: 200_000}", "n_tokens", 200_000),
        ("{d_sae: 64.0}", "d_sae", 64),
        ("{d_sae: 1e3}", "d_sae", 1000),
        ("{seed: 1.0}", "seed", 1),
    ],
)
def test_numbers_are_numbers_however_yaml_and_json_spell_them(
    tmp_path: Path, entry: str, name: str, number: float
) -> None:
    (settings,) = members(written(tmp_path, f"grid: [{entry}]")).values()
    found = getattr(settings, name)
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
    assert settings.k == 4


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


# What is refused of a grid file ------------------------------------------------------------------


def refused(done: Done, message: str, out: Path) -> None:
    """One line that says it, exit code 2, nothing left behind."""
    assert done.code == 2, done
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert re.search(message, done.err), done.err
    assert len(done.err) < 1000, f"{len(done.err)} characters"
    assert not out.exists()


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
    refused(called(sweep_script.main, written(tmp_path, content), "--out", out), message, out)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("kind", ["missing", "a folder", "no text"])
def test_a_grid_file_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    path, out = tmp_path / "grid.yaml", tmp_path / "sweep"
    if kind == "a folder":
        path.mkdir()
    if kind == "no text":
        path.write_bytes(b"\xff\xfe\x00grid")
    refused(called(sweep_script.main, path, "--out", out), "cannot read.*grid.yaml", out)


@pytest.mark.usefixtures("no_model")
def test_a_grid_file_runs_no_code(tmp_path: Path) -> None:
    trace, out = tmp_path / "trace", tmp_path / "sweep"
    path = written(tmp_path, f"grid: !!python/object/apply:os.mkdir [{trace}]")
    refused(called(sweep_script.main, path, "--out", out), "cannot read", out)
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
    refused(called(sweep_script.main, path, "--out", out), name, out)


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
    refused(called(sweep_script.main, path, "--out", out), name, out)


# The script --------------------------------------------------------------------------------------


def test_help_names_every_flag() -> None:
    shown = called(sweep_script.main, "--help")
    assert shown.code == 0
    for flag in ("out", "resume", "members-per-pass", "device", "wandb"):
        assert f"--{flag}" in shown.out, flag


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PATH"),
        (["--out", "sweep"], "PATH"),
        (["grid.yaml", "--magic", "1"], "--magic"),
        (["grid.yaml", "other.yaml"], "other.yaml"),
        (["grid.yaml", "--members-per-pass", "0"], "members_per_pass must be at least 1, got 0"),
        (["grid.yaml", "--members-per-pass", "many"], "many"),
        (["grid.yaml", "--wandb", "sometimes"], "sometimes"),
    ],
)
def test_flags_that_are_wrong_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "grid: [{k: 4}]")
    refused(called(sweep_script.main, *arguments), message, tmp_path / "sweep")
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


# Fronts ------------------------------------------------------------------------------------------


def row(name: str, l0: float, fvu: float, delta_ce: float, site: str = RESID) -> SweepRow:
    metrics = {"l0": float(l0), "fvu": float(fvu), "delta_ce": float(delta_ce)}
    metrics["dead_fraction"] = 0.0
    return SweepRow(name, site, "topk", {}, metrics)


def fronts(rows: Sequence[SweepRow]) -> dict[str, tuple[str, ...]]:
    """Of which fronts each is a part, in the order of the rows."""
    return {marked.name: marked.fronts for marked in mark_fronts(rows)}


def test_a_front_is_what_no_other_has_less_of_both_than() -> None:
    rows = [
        row("dominated", 30, 0.40, 0.25),  # by `dense` in FVU, by `kind` in delta CE
        row("dense", 20, 0.40, 0.40),  # delta CE: `sparse` has less of both
        row("kind", 20, 0.45, 0.20),  # FVU: `dense` has less at the same L0
        row("sparse", 10, 0.50, 0.30),
    ]
    assert list(fronts(rows).items()) == [
        ("sparse", ("FVU", "delta CE")),
        ("dense", ("FVU",)),
        ("kind", ("delta CE",)),
        ("dominated", ()),
    ]


def test_equals_are_on_a_front_together_and_a_tie_in_one_number_is_not_enough() -> None:
    rows = [
        row("one", 10, 0.5, 0.3),
        row("its equal", 10, 0.5, 0.3),
        row("same L0, worse", 10, 0.6, 0.4),
        row("same FVU, more L0", 11, 0.5, 0.5),
    ]
    both = ("FVU", "delta CE")
    assert fronts(rows) == {
        "one": both,
        "its equal": both,
        "same L0, worse": (),
        "same FVU, more L0": (),
    }


def test_a_member_alone_is_on_both_fronts() -> None:
    assert fronts([row("one", 0.0, 1.2, -0.1)]) == {"one": ("FVU", "delta CE")}
    assert mark_fronts([]) == []


def test_fronts_are_taken_and_listed_site_by_site() -> None:
    rows = [
        row("b worse", 20, 0.9, 0.9, "b"),
        row("a worse", 10, 0.6, 0.6, "a"),
        row("b best", 20, 0.8, 0.8, "b"),  # beaten by all of `a`, which says nothing
        row("a best", 9, 0.5, 0.5, "a"),
    ]
    both = ("FVU", "delta CE")
    assert list(fronts(rows).items()) == [
        ("a best", both),
        ("a worse", ()),
        ("b best", both),
        ("b worse", ()),
    ]


NAN = math.nan


@pytest.mark.parametrize("is_missing", [False, True], ids=["nan", "missing, as eval.json has it"])
def test_what_was_not_measured_is_on_no_front_and_beats_nobody(is_missing: bool) -> None:
    rows = [
        row("diverged", NAN, NAN, NAN),
        row("no model", 5, 0.9, NAN),
        row("better", 20, 0.5, 0.3),
        row("worse", 20, 0.6, 0.4),
        row("at least sparse", 1, NAN, NAN),
    ]
    if is_missing:
        for each in rows:
            present = {name: value for name, value in each.metrics.items() if value == value}
            object.__setattr__(each, "metrics", present)
    assert fronts(rows) == {
        "better": ("FVU", "delta CE"),
        "no model": ("FVU",),
        "worse": (),
        "at least sparse": (),
        "diverged": (),
    }


few = st.integers(0, 3).map(float)


@given(st.lists(st.tuples(few, few, few, st.sampled_from("ab")), min_size=1, max_size=8))
@hypothesis_settings(max_examples=50, deadline=None)
def test_a_front_is_its_definition_and_the_order_of_members_does_not_matter(
    numbers: list[tuple[float, float, float, str]],
) -> None:
    rows = [row(str(i), *numbers[i]) for i in range(len(numbers))]
    found = fronts(rows)
    assert found == fronts(rows[::-1])
    for i, (l0, fvu, _, site) in enumerate(numbers):
        beaten = any(
            (other[0] <= l0 and other[1] < fvu) or (other[0] < l0 and other[1] <= fvu)
            for other in numbers
            if other[3] == site
        )
        assert ("FVU" in found[str(i)]) is not beaten


# Table and picture -------------------------------------------------------------------------------

LONG = (
    "jumprelu-d_sae1536-l0_coeff0.25-tied-blocks.10.hook_resid_post-n_tokens1000000-lr0.001-seed0"
)


def printed(rows: Sequence[SweepRow], width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(results_table(rows))
    return out.getvalue()


def column(table: str, n: int) -> str:
    """All cells of a column put together."""
    lines = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    return "".join(cells[n + 1].strip() for cells in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_whole_names_and_numbers(width: int) -> None:
    rows = mark_fronts(
        [
            row(LONG, 12.34, 0.1234, 0.05678),
            row("topk-k4", 1234.5, 0.9, -0.001234),
            row("k", 2, 1, 3),
        ]
    )
    table = printed(rows, width)
    assert column(table, 0) == "".join(each.name for each in rows)
    for number in ("12.34", "0.1234", "0.05678", "-0.001234", "1,234"):
        assert number in table, number
    assert max(map(len, table.splitlines())) <= width
    assert "…" not in table


def test_the_table_shows_what_was_not_measured_as_nothing_or_nan() -> None:
    rows = mark_fronts([row("diverged", 3, NAN, NAN), row("fine", 2, 0.5, 0.3)])
    assert column(printed(rows, 80), 0) == "finediverged"
    bare = SweepRow("diverged", RESID, "topk", {}, {"l0": 3.0, "dead_fraction": 0.5})
    assert "diverged" in printed(mark_fronts([bare]), 80)


def test_a_row_of_results_is_plain_json() -> None:
    (marked,) = mark_fronts([row("one", 2, 0.5, 0.3)])
    assert json.loads(json.dumps(marked.to_dict(), allow_nan=False))["fronts"] == [
        "fvu",
        "delta_ce",
    ]


PICTURES: Mapping[str, Sequence[SweepRow]] = {
    "two sites, zeros, less, and diverged": [
        row("zero", 0, 1.0, -0.1, "a"),
        row("all", 5, 0.0, 0.0, "a"),
        row("diverged", NAN, NAN, NAN, "a"),
        row("all diverged", 2, NAN, NAN, "b"),
    ],
}
MORE_PICTURES: Mapping[str, Sequence[SweepRow]] = {
    "one": [row("one", 2, 0.5, 0.3)],
    "equals": [row("one", 2, 0.5, 0.3), row("other", 2, 0.5, 0.3)],
    "far apart": [row("a", 1, 0.9, 9.0), row("b", 4096, 1e-5, 1e-5)],
    "many sites": [row(site, 2, 0.5, 0.3, site) for site in "abcdefgh"],
    "infinite": [row("a", 2, math.inf, math.inf), row("b", 2, 0.5, 0.3)],
}


@pytest.mark.slow
@pytest.mark.parametrize("rows", MORE_PICTURES.values(), ids=MORE_PICTURES)
def test_every_picture_is_a_picture(tmp_path: Path, rows: Sequence[SweepRow]) -> None:
    assert_drawn(rows, tmp_path)


@pytest.mark.parametrize("rows", PICTURES.values(), ids=PICTURES)
def test_the_picture_is_a_picture(tmp_path: Path, rows: Sequence[SweepRow]) -> None:
    assert_drawn(rows, tmp_path)


def assert_drawn(rows: Sequence[SweepRow], folder: Path) -> None:
    import matplotlib.image

    write_plot(mark_fronts(rows), folder)
    pixels = matplotlib.image.imread(folder / "pareto.png")
    n_sites = len({each.hook_name for each in rows})
    height, width, _ = pixels.shape
    assert width > 1000 and height > 400 * n_sites
    assert (pixels[..., :3].min(axis=-1) < 0.5).mean() > 0.001  # there is ink
    svg = ElementTree.parse(folder / "pareto.svg").getroot()
    assert svg.tag.endswith("svg") and len(list(svg.iter())) > 50
