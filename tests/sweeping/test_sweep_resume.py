"""A sweep that was interrupted, or that has grown, ends as one that was not disturbed."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweeps import MLP, NAMES, RESID, TWO, count_steps, differences, grid_file, interrupt, member

from activation_cache.common.errors import InputError
from sae.runs.sweep import SweepSettings, sweep


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def assert_equal_sweeps(settings: SweepSettings, other: SweepSettings) -> None:
    for name in NAMES:
        assert not differences(member(settings, name), member(other, name)), name
        assert (member(settings, name) / "report.html").is_file()
    assert (settings.out / "results.json").read_bytes() == (other.out / "results.json").read_bytes()


def test_an_interrupted_sweep_goes_on_to_the_same_results(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make(TWO, n_tokens=192)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        interrupt(patch, n_steps=4)
        sweep(settings)
    for name in NAMES:  # the dictionaries are saved as they were then
        assert (member(settings, name) / "sae" / "cfg.json").is_file()
        assert not (member(settings, name) / "eval.json").exists()
    sweep(replace(settings, resume=True))
    assert_equal_sweeps(settings, undisturbed)


def test_members_of_a_pass_that_was_finished_are_not_touched_again(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make(TWO, n_tokens=192, members_per_pass=1)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        interrupt(patch, n_steps=5)  # three steps of the first, two of the second
        sweep(settings)
    before = times(member(settings, "topk"))
    with monkeypatch.context() as patch:
        taken = count_steps(patch)
        sweep(replace(settings, resume=True))
    assert len(taken) == 1
    assert times(member(settings, "topk")) == before
    assert_equal_sweeps(settings, undisturbed)


def test_a_finished_sweep_that_goes_on_trains_nothing_and_tells_the_same(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = times(undisturbed.out / "members")
    results = (undisturbed.out / "results.json").read_bytes()
    taken = count_steps(monkeypatch)
    sweep(replace(undisturbed, resume=True))
    assert not taken and times(undisturbed.out / "members") == before
    assert (undisturbed.out / "results.json").read_bytes() == results


def test_a_finished_sweep_collects_the_features_that_it_is_asked_for_later(
    make: Callable[..., SweepSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(make(TWO, n_tokens=192))
    taken = count_steps(monkeypatch)
    settings = make(TWO, n_tokens=192, feature_tokens=200, resume=True)
    sweep(settings)
    assert not taken
    for name in NAMES:
        folder = member(settings, name)
        assert (folder / "features" / "index.html").is_file()
        assert 'href="features/index.html' in (folder / "report.html").read_text()


def test_a_sweep_interrupted_after_its_training_goes_on_to_the_same_files(
    make: Callable[..., SweepSettings],
    undisturbed: SweepSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = make(TWO, n_tokens=192)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr("sae.runs.inputs.evaluate_on_held_out_text", interrupted)
        sweep(settings)
    sweep(replace(settings, resume=True))
    assert_equal_sweeps(settings, undisturbed)


def test_going_on_with_a_sweep_that_was_not_begun_begins_it(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings
) -> None:
    settings = make(TWO, n_tokens=192, resume=True)
    sweep(settings)
    assert_equal_sweeps(settings, undisturbed)


def test_a_grid_that_has_grown_trains_what_is_new(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = times(undisturbed.out / "members" / "topk")
    grown = make(
        [{"architecture": "gated", "d_sae": 16}, *TWO], out="undisturbed", n_tokens=192, resume=True
    )
    taken = count_steps(monkeypatch)
    rows = sweep(grown)
    assert taken == [16, 16, 16]
    assert {row.name for row in rows} == {*NAMES, "gated-d_sae16"}
    assert times(undisturbed.out / "members" / "topk") == before


def test_what_may_differ_between_two_sittings_is_where_and_how_it_is_shown(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = make(TWO, out="undisturbed", n_tokens=192, log_every=1, device="cpu", resume=True)
    taken = count_steps(monkeypatch)
    sweep(again)
    assert not taken


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_tokens": 193}, "n_tokens 192, and the grid has 193"),
        ({"data_seed": 1}, "data_seed 0, and the grid has 1"),
        ({"hook_name": MLP}, f"hook_name '{RESID}', and the grid has '{MLP}'"),
    ],
)
def test_settings_that_have_changed_are_refused_and_nothing_is_touched(
    make: Callable[..., SweepSettings],
    undisturbed: SweepSettings,
    changes: dict[str, Any],
    message: str,
) -> None:
    """Members that are new come first in the list: they are not begun either."""
    changed = make(
        [{"architecture": "gated"}, *TWO],
        out="undisturbed",
        **{"n_tokens": 192, **changes, "resume": True},
    )
    before = times(undisturbed.out)
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        sweep(changed)
    assert "\n" not in str(raised.value)
    assert times(undisturbed.out) == before


@pytest.mark.parametrize("name", ["config.json", "eval.json", "report.html"])
def test_a_member_that_lacks_a_file_is_trained_again(
    undisturbed: SweepSettings, finished: SweepSettings, name: str
) -> None:
    (member(undisturbed, "relu") / name).unlink()
    before = times(member(undisturbed, "topk"))
    sweep(replace(undisturbed, resume=True))
    assert_equal_sweeps(undisturbed, finished)
    assert times(member(undisturbed, "topk")) == before


def test_what_lies_beside_the_members_stays_there(
    make: Callable[..., SweepSettings], undisturbed: SweepSettings
) -> None:
    notes = undisturbed.out / "members" / "notes.txt"
    notes.write_text("mine")
    older = undisturbed.out / "members" / "topk-k16"
    older.mkdir()
    sweep(replace(undisturbed, resume=True))
    assert notes.read_text() == "mine" and older.is_dir()


@pytest.mark.slow
def test_a_sweep_that_was_stopped_by_ctrl_c_goes_on_to_the_same_results(tmp_path: Path) -> None:
    shared = {"hook_name": "blocks.0.hook_resid_pre", "buffer_tokens": 4096, "log_every": 1}
    grid = [{"architecture": "topk", "k": 4, "n_tokens": [512, 20_480]}]
    path = grid_file(tmp_path / "grid.yaml", grid, context_size=32, **shared)
    short, long = "topk-k4-n_tokens512", "topk-k4-n_tokens20480"

    def command(out: Path, *flags: str) -> list[str]:
        sweep = [sys.executable, "-m", "featureloom", "sweep", str(path)]
        return [*sweep, "--out", str(out), "--members-per-pass", "1", *flags]

    options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    process = subprocess.Popen(command(stopped), **options)
    log = stopped / "members" / long / "metrics.jsonl"
    for _ in range(1200):
        if process.poll() is not None or (log.exists() and log.stat().st_size > 500):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert re.fullmatch(
        rb"interrupted after [\d,]+ tokens, saved in .*checkpoints/\d+: resume with --resume\n", err
    )
    assert not (stopped / "members" / long / "eval.json").exists()
    assert (stopped / "members" / long / "sae" / "cfg.json").is_file()
    before = times(stopped / "members" / short)
    subprocess.run(command(stopped, "--resume"), check=True, **options)
    assert times(stopped / "members" / short) == before
    subprocess.run(command(whole), check=True, **options)
    for name in (short, long):
        assert not differences(stopped / "members" / name, whole / "members" / name)
    assert (stopped / "results.json").read_bytes() == (whole / "results.json").read_bytes()
