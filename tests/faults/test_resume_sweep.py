"""A sweep that was cut short within a pass goes on with each member to what it would be alone."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from resuming import (
    Disturbance,
    checkpoints_in,
    ctrl_c,
    cut_short,
    in_call_of,
    in_checkpoint,
    in_step,
    leftovers,
    quick,
    times,
)
from sweeps import (
    MLP,
    assert_each_is_as_if_alone,
    count_steps,
    differences,
    grid_file,
    listed,
    logged,
    member,
)

from activation_cache import LanguageModel
from sae.runs.sweep import SweepSettings, sweep

Grid = Sequence[Mapping[str, Any]]
Make = Callable[..., SweepSettings]

THREE: Grid = [
    {"architecture": "batch_topk", "k": 2, "n_tokens": [512, 200]},
    {"architecture": "relu", "hook_name": MLP},
]
NAMES = ("batch_topk-k2-n_tokens512", "batch_topk-k2-n_tokens200", f"relu-{MLP}")


@pytest.fixture(autouse=True)
def _quick(gpt2: LanguageModel) -> Iterator[None]:
    with quick(gpt2):
        yield


@pytest.fixture
def make(tmp_path: Path, gpt2: LanguageModel, dataset: str) -> Make:
    """Settings of a sweep; the same `out` with another grid is the same sweep, changed."""

    def settings(
        grid: Grid, *, out: str = "sweep", per_pass: int | None = None, **shared: Any
    ) -> SweepSettings:
        shared = {"model": gpt2.name, "dataset": dataset, "checkpoint_tokens": 64, **shared}
        path = grid_file(tmp_path / f"{out}.json", grid, **shared)
        return SweepSettings(grid=path, out=tmp_path / out, members_per_pass=per_pass)

    return settings


def sit(settings: SweepSettings, disturb: Disturbance, *, resume: bool = True) -> bool:
    return cut_short(lambda: sweep(replace(settings, resume=resume)), disturb)


def assert_same_sweep(settings: SweepSettings, other: SweepSettings) -> None:
    names = sorted(path.name for path in (other.out / "members").iterdir())
    assert sorted(path.name for path in (settings.out / "members").iterdir()) == names
    for name in names:
        assert not differences(member(settings, name), member(other, name)), name
    assert (settings.out / "results.json").read_bytes() == (other.out / "results.json").read_bytes()
    assert not leftovers(settings.out) and not checkpoints_in(settings.out)


def test_a_pass_of_several_members_is_gone_on_with_wherever_it_was(make: Make) -> None:
    settings, other = (make(THREE, out=out, per_pass=2) for out in ("sweep", "other"))
    sweep(other)
    disturbances: Sequence[Disturbance] = [
        in_step(4),
        in_step(5, ctrl_c),
        in_checkpoint(2),
        in_call_of("sae.runs.inputs:evaluate_on_held_out_text", 1),
        in_call_of("sae.runs.inputs:evaluate_on_held_out_text", 2, ctrl_c),
        in_call_of("sae.runs.checkpoints:Checkpoints.remove", 1),
        in_step(2),
    ]
    for number, disturb in enumerate(disturbances):
        sit(settings, disturb, resume=number > 0)
    sweep(replace(settings, resume=True))
    assert_same_sweep(settings, other)


def test_members_that_are_done_are_not_touched(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make(THREE)
    assert sit(settings, in_call_of("sae.runs.inputs:evaluate_on_held_out_text", 2), resume=False)
    done = [name for name in NAMES if (member(settings, name) / "report.html").exists()]
    assert done == list(NAMES[:2])
    before = [times(member(settings, name)) for name in done]
    steps = count_steps(monkeypatch)
    sweep(replace(settings, resume=True))
    assert not steps  # the third was trained as well, and saved
    assert [times(member(settings, name)) for name in done] == before


def test_a_pass_begins_without_the_checkpoints_of_the_one_before(make: Make) -> None:
    """The one before has more tokens: its checkpoints would count as newer."""
    grid: Grid = [{"n_tokens": [512, 400], "k": 2}]
    settings, other = (make(grid, out=out, per_pass=1) for out in ("sweep", "other"))
    sweep(other)
    assert sit(settings, in_call_of("sae.runs.checkpoints:Checkpoints.remove"), resume=False)
    assert sit(settings, in_step(5))
    tokens = [int(path.name) for path in checkpoints_in(settings.out)]
    assert tokens == [192, 256]
    sweep(replace(settings, resume=True))
    assert_same_sweep(settings, other)


def test_nothing_is_left_of_checkpoints_once_all_members_are_done(make: Make) -> None:
    settings = make([{"k": 2}])
    assert sit(settings, in_call_of("sae.runs.checkpoints:Checkpoints.remove"), resume=False)
    sweep(replace(settings, resume=True))
    assert not (settings.out / "checkpoints").exists()


def test_a_member_whose_settings_have_changed_is_trained_from_its_beginning(make: Make) -> None:
    """Its name is the same: what is shared by all members does not stand in it."""
    settings = make([{"k": 2}, {"k": 3}])
    assert sit(settings, in_step(13), resume=False)
    again = make([{"k": 2}, {"k": 3}], lr=0.1)
    assert sit(again, in_step(3))  # before there is a checkpoint of its own
    assert sit(again, in_step(9))
    sweep(replace(again, resume=True))
    shutil.rmtree(again.out / "members" / "alone", ignore_errors=True)
    assert_each_is_as_if_alone(replace(again, resume=True))


def test_a_member_that_is_taken_out_or_put_in_changes_nothing_for_the_others(make: Make) -> None:
    settings = make([{"k": [2, 3]}])
    assert sit(settings, in_step(9), resume=False)
    changed = make([{"k": [3, 4]}])
    sweep(replace(changed, resume=True))
    shutil.rmtree(member(changed, "k2"))
    assert_each_is_as_if_alone(replace(changed, resume=True))


def test_a_member_that_diverges_keeps_no_other_from_its_end(make: Make) -> None:
    settings = make([{"lr": [1e30, 0.01], "k": 2}])
    sit(settings, in_step(7), resume=False)
    sweep(replace(settings, resume=True))
    diverged, fine = (member(settings, name) for name in ("lr1e+30-k2", "lr0.01-k2"))
    assert logged(fine)[-1]["n_tokens"] == 512
    assert all(row["n_tokens"] < 512 for row in logged(diverged))
    assert listed(diverged).keys() == listed(fine).keys()
