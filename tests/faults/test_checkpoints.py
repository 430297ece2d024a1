"""Checkpoints: which are kept, what is in them, and that a damaged one is never gone on from."""

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from resuming import (
    Maker,
    checkpoints_in,
    ctrl_c,
    in_checkpoint,
    in_step,
    leftovers,
    sit,
    told,
)
from rich.console import Console
from safetensors import SafetensorError
from sweeps import MLP, RESID, listed

import sae
from sae.evaluation import EvalReport
from sae.runs.checkpoints import Checkpoints
from sae.runs.run import run
from sae.runs.settings import RunSettings
from sae.training.checkpoint import read_state


def tokens_of(out: Path) -> list[int]:
    return [int(path.name) for path in checkpoints_in(out)]


# Layout and policy -------------------------------------------------------------------------------


def test_a_checkpoint_holds_the_dictionaries_of_that_moment(make: Maker) -> None:
    """Folded and with unit rows, each as a run of so many steps would have left it then."""
    sites = (RESID, MLP)
    settings = make(hook_name=sites, checkpoint_tokens=64, keep_checkpoints=99, k=4)
    run(settings)
    assert tokens_of(settings.out) == [64 * i for i in range(1, 9)]
    assert not leftovers(settings.out)
    stopped = make("stopped", hook_name=sites, k=4)
    sit(stopped, in_step(6, ctrl_c), resume=False)
    at_512 = settings.out / "checkpoints" / f"{512:012}"
    for site in sites:
        at_192 = settings.out / "checkpoints" / f"{192:012}" / site
        dictionary, other = sae.load(at_192), sae.load(stopped.out / site)
        assert dictionary.provenance.to_metadata() == other.provenance.to_metadata()
        weights, others = dictionary.state_dict(), other.state_dict()
        assert all(torch.equal(weights[name], others[name]) for name in others)
        last, done = (sae.load(folder / site).state_dict() for folder in (at_512, settings.out))
        assert all(torch.equal(last[name], done[name]) for name in done)
    names = {path.split("/")[0] for path in listed(settings.out / "checkpoints" / f"{192:012}")}
    assert names == {"state.json", "state.safetensors", "checksums.json", *sites}


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ({}, [512]),
        ({"checkpoint_tokens": 100, "keep_checkpoints": 99}, [128, 256, 320, 448, 512]),
        ({"checkpoint_tokens": 64, "keep_every_tokens": 150}, [192, 320, 448, 512]),
        ({"checkpoint_minutes": 1e-9, "keep_checkpoints": 3}, [384, 448, 512]),
    ],
)
def test_those_that_the_policy_names_are_kept(
    make: Maker, policy: dict[str, Any], kept: list[int]
) -> None:
    settings = make(**policy)
    run(settings)
    assert tokens_of(settings.out) == kept


def test_the_best_is_kept_beside_the_newest(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    delta_ces = [5, 3, 1, None, 2, 4, 1.5, 1.2]
    values = itertools.chain(delta_ces, itertools.repeat(delta_ces[-1]))

    def to_json(_report: EvalReport) -> str:
        value = next(values)
        return json.dumps({"metrics": {} if value is None else {"delta_ce": value}})

    monkeypatch.setattr(EvalReport, "to_json", to_json)
    settings = make(keep_best=True, checkpoint_tokens=64, keep_checkpoints=2)
    run(settings)
    assert tokens_of(settings.out) == [192, 448, 512]


def clocked(
    monkeypatch: pytest.MonkeyPatch, folder: Path, settings: RunSettings
) -> tuple[Checkpoints, list[float]]:
    """Checkpoints, and a list whose last number is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[-1])
    monkeypatch.setattr(time, "time", lambda: -now[-1])  # which may jump in any direction
    return Checkpoints(folder, settings, Console(quiet=True)), now


def test_one_is_due_every_so_many_minutes_or_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RunSettings.of(checkpoint_minutes=2.0, checkpoint_tokens=1000)
    checkpoints, now = clocked(monkeypatch, tmp_path, settings)
    assert not checkpoints.is_due(999) and checkpoints.is_due(1000)
    now.append(1119.9)
    assert not checkpoints.is_due(10)
    now.append(1120.1)
    assert checkpoints.is_due(10)
    checkpoints.write(10, {}, lambda _folder: None)
    assert not checkpoints.is_due(999) and checkpoints.is_due(1000)
    now.append(500.0)  # no clock should, but some do
    assert not checkpoints.is_due(20) and checkpoints.is_due(1001)
    now.append(1e9)
    assert checkpoints.is_due(20)
    checkpoints.write(20, {}, lambda _folder: now.append(now[-1] + 1000))
    assert not checkpoints.is_due(21)  # however long it takes, an evaluation included


@given(
    steps=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    keep=st.integers(1, 4),
    every=st.none() | st.integers(1, 400),
)
@hypothesis_settings(max_examples=15, deadline=None)
def test_what_is_kept_is_the_newest_and_the_first_behind_each_multiple(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], keep: int, every: int | None
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    settings = RunSettings.of(keep_checkpoints=keep, keep_every_tokens=every)
    checkpoints = Checkpoints(folder, settings, Console(quiet=True))
    names = list(itertools.accumulate(steps))
    for n in names:
        checkpoints.write(n, {"n": n}, lambda _folder: None)
    first = {n // every: n for n in reversed(names) if n >= every} if every else {}
    expected = sorted({*names[-keep:], *first.values()})
    assert [int(path.name) for path in checkpoints.paths()] == expected
    assert checkpoints.newest() == {"n": names[-1]}


# Left over, and not written ----------------------------------------------------------------------


FULL = OSError(28, "No space left on device")
FULL_IN_RUST = SafetensorError("Error while serializing: No space left on device (os error 28)")


@pytest.mark.parametrize(("function", "error"), [("save_file", FULL_IN_RUST), ("_checksums", FULL)])
def test_one_that_cannot_be_written_is_told_and_the_training_goes_on(
    make: Maker, function: str, error: Exception
) -> None:
    def fail() -> None:
        raise error

    settings, console = make(checkpoint_tokens=128, keep_checkpoints=9), told()
    with pytest.MonkeyPatch.context() as patch:
        in_checkpoint(2, function, fail)(patch)
        run(settings, console)
    warnings = [line for line in console.lines() if "warning" in line]
    assert len(warnings) == 1 and str(error.args[-1]) in warnings[0]
    assert tokens_of(settings.out) in ([128, 384, 512], [256, 384, 512])
    assert not leftovers(settings.out)
    for path in checkpoints_in(settings.out):
        read_state(path)


def test_a_moment_that_is_saved_twice_is_never_without_its_checkpoint(make: Maker) -> None:
    """The last step is due, and so is the end: who is killed there has the only one still."""
    settings = make(checkpoint_tokens=512, keep_checkpoints=1)
    seen: list[bool] = []

    def look(*_arguments: object, **_options: object) -> None:
        seen.append(bool(checkpoints_in(settings.out)))

    with pytest.MonkeyPatch.context() as patch:
        rename, remove = Path.rename, shutil.rmtree
        patch.setattr(Path, "rename", lambda path, to: (look(), rename(path, to))[1])
        patch.setattr(shutil, "rmtree", lambda *a, **o: (remove(*a, **o), look())[0])
        run(settings)
    assert seen == sorted(seen), "there was one, and then there was none"
