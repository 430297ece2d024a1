"""What can happen to a run folder, and what a run folder is asked to go on with."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from forks import small_disk
from resuming import (
    Disturbance,
    Maker,
    assert_same,
    checkpoints_in,
    in_call_of,
    in_checkpoint,
    in_step,
    leftovers,
    refused,
    sit,
    state_of,
    told,
)
from sweeps import listed

from activation_cache.cache.storage import Storage
from activation_cache.common.errors import InputError
from sae.runs.run import run
from sae.runs.settings import RunSettings

# Others in the folder ----------------------------------------------------------------------------


def test_a_second_run_in_the_folder_is_refused_naming_the_process(died: RunSettings) -> None:
    with Storage(died.out).only_writer():
        before = state_of(died.out)
        said = refused(lambda: run(died, resume=True))
        assert f"process {os.getpid()} on " in said and str(died.out) in said
        assert "exists" in refused(lambda: run(died))
        assert state_of(died.out) == before


@pytest.mark.parametrize(("n", "checkpoint_tokens"), [(1, 64), (8, None)])
def test_a_folder_that_is_deleted_meanwhile_is_told_and_never_taken_for_a_run(
    make: Maker, n: int, checkpoint_tokens: int | None
) -> None:
    settings = make(checkpoint_tokens=checkpoint_tokens)
    disturb = in_step(n, lambda: shutil.rmtree(settings.out))
    assert f"{settings.out} is gone" in refused(lambda: sit(settings, disturb, resume=False))
    assert not settings.out.exists()
    run(settings)


@pytest.mark.parametrize(
    ("checkpoint_tokens", "moment"),
    [
        (64, partial(in_step, 6)),
        (64, partial(in_checkpoint, 3, "save_file")),
        (64, partial(in_call_of, "sae.runs.checkpoints:Checkpoints._prune", 3)),
        (None, partial(in_checkpoint, 1, "save_file")),  # at the end
    ],
)
def test_a_folder_that_is_moved_away_is_gone_on_with_once_it_is_back(
    make: Maker,
    finished: Path,
    checkpoint_tokens: int | None,
    moment: Callable[..., Disturbance],
) -> None:
    settings = make(checkpoint_tokens=checkpoint_tokens)
    elsewhere = settings.out.with_name("elsewhere")
    disturb = moment(happens=lambda: settings.out.rename(elsewhere))
    assert f"{settings.out} is gone" in refused(lambda: sit(settings, disturb, resume=False))
    elsewhere.rename(settings.out)
    (settings.out / "writer.lock").unlink()  # of this process, which lives on
    run(settings, resume=True)
    assert_same(settings.out, finished)


# Disks -------------------------------------------------------------------------------------------


@pytest.fixture
def disk(make: Maker) -> Iterator[Path]:
    with small_disk(make.folder / "disk", "1m") as reason:
        if reason:
            pytest.skip(reason)
        yield make.folder / "disk"


def assert_goes_on(settings: RunSettings, finished: Path) -> None:
    run(settings, resume=True)
    assert_same(settings.out, finished)


def test_a_disk_that_becomes_read_only_ends_the_run_in_one_line_that_says_how_to_go_on(
    disk: Path, make: Maker, finished: Path
) -> None:
    settings = make("disk/run", checkpoint_tokens=64)

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

    # Linux keeps a disk writable while a file is open for that: so the writes fail instead.
    said = refused(lambda: sit(settings, in_step(8, lambda: fill(disk, 0)), resume=False))
    (disk / "ballast").unlink()
    assert str(settings.out) in said and "--resume" in said
    remount("ro")
    before = listed(settings.out)
    refused(lambda: run(settings, resume=True))
    assert listed(settings.out) == before
    remount("rw")
    assert_goes_on(settings, finished)


def fill(disk: Path, free: int) -> None:
    (disk / "ballast").unlink(missing_ok=True)
    left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
    (disk / "ballast").write_bytes(bytes(max(0, left - free)))


@pytest.mark.parametrize(("n", "free_kb"), [(0, 0), (4, 40), (8, 0), (8, 120)])
def test_a_full_disk_costs_warnings_or_the_run_but_nothing_that_was_saved(
    disk: Path, make: Maker, finished: Path, n: int, free_kb: int
) -> None:
    settings, console = make("disk/run", checkpoint_tokens=64), told()
    with pytest.MonkeyPatch.context() as patch:
        if n:
            in_step(n, lambda: fill(disk, free_kb * 1024))(patch)
        else:
            fill(disk, free_kb * 1024)
        try:
            run(settings, console)
        except InputError as error:
            assert "\n" not in str(error) and str(settings.out) in str(error), error
        else:
            assert_same(settings.out, finished)
    saved = [path for path in checkpoints_in(settings.out)]
    assert len(saved) >= min(n - 1, 2) and not leftovers(settings.out)
    (disk / "ballast").unlink()
    assert_goes_on(settings, finished)


# Files -------------------------------------------------------------------------------------------

LOG_HARM: dict[str, Callable[[Path], object]] = {
    "shorter": lambda path: path.write_bytes(path.read_bytes()[:-150]),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("harm", LOG_HARM)
def test_a_log_that_has_lost_rows_is_told_by_name_and_nothing_is_touched(
    died: RunSettings, harm: str
) -> None:
    LOG_HARM[harm](died.out / "metrics.jsonl")
    before = listed(died.out)
    assert str(died.out) in refused(lambda: run(died, resume=True))
    assert listed(died.out) == before


@pytest.mark.parametrize("harm", LOG_HARM)
def test_a_log_of_speeds_that_has_lost_rows_changes_nothing(
    died: RunSettings, finished: Path, harm: str
) -> None:
    LOG_HARM[harm](died.out / "throughput.jsonl")
    assert_goes_on(died, finished)


def test_rows_behind_the_checkpoint_are_logged_again(died: RunSettings, finished: Path) -> None:
    assert sit(died, in_step(2))
    with (died.out / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "n_tok')
    assert_goes_on(died, finished)


def test_config_and_result_are_whole_or_not_there_at_any_moment(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make(checkpoint_tokens=64)
    seen: set[str] = set()

    def look() -> None:
        for name in ("config.json", "eval.json", "sae/cfg.json"):
            if (settings.out / name).exists():
                json.loads((settings.out / name).read_text())
                seen.add(name)

    for owner, name in ((os, "fsync"), (os, "open"), (os, "replace"), (Path, "write_text")):
        before = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, _f=before, **o: (look(), _f(*a, **o))[1])
    run(settings)
    run(settings.but(log_every=1), resume=True)
    assert "config.json" in seen and "eval.json" in seen


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_is_refused_leaves_nothing_behind(make: Maker, resume: bool) -> None:
    settings = make("of/some/run", context_size=64)
    refused(lambda: run(settings, resume=resume))
    assert listed(make.folder) == {}


def test_no_key_is_in_any_file(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What W&B writes is looked through in test_wandb_server.py."""
    keys = {"WANDB_API_KEY": "5ec7e7" * 6 + "5ec7", "HF_TOKEN": "hf_" + "5ec7e7" * 6}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    run(make(checkpoint_tokens=64))
    files = {name: data for name, data in listed(make().out).items() if data is not None}
    assert [n for n, data in files.items() for v in keys.values() if v.encode() in data] == []
