"""Bad input to scripts/harvest.py is refused in one line, and changes nothing."""

import shutil
import signal
from pathlib import Path

import pytest
from forks import Done, Forks, files, flags, flip
from harvests import Undisturbed, refused
from in_process import called

from activation_cache import ActivationCache
from activation_cache.cache.manifest import FILE
from sae.commands import harvest as harvest_script


@pytest.fixture
def cache(undisturbed: Undisturbed, tmp_path: Path) -> Path:
    """A copy to do something to."""
    return shutil.copytree(undisturbed.folder, tmp_path / "cache")


def harvested(*arguments: object) -> Done:
    """The script in this process."""
    return Done(*called(harvest_script.main, *arguments))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("--codec int8", "begun with codec 'bfloat16', not 'int8'"),
        ("--dtype bfloat16", "begun with model weights '.*', not '.*'"),
    ],
)
def test_other_settings_are_refused_with_the_difference_and_change_nothing(
    undisturbed: Undisturbed, cache: Path, changed: str, message: str
) -> None:
    done = harvested(*flags(undisturbed.text, cache, *changed.split()))
    refused(done, f"the cache {cache} was {message}.*: give that, or another folder")
    assert files(cache) == undisturbed.content


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--hook-name blocks.9.hook_resid_pre", "blocks.9.hook_resid_pre.*layers 0 to 3"),
        ("--held-out-tokens -1", "held_out_tokens must be at least 0, got -1"),
        ("--magic 1", "--magic"),
        ("--repair", "is not an activation cache: it has no manifest.json"),
    ],
)
def test_bad_flags_are_refused_in_one_line_and_leave_nothing_behind(
    undisturbed: Undisturbed, tmp_path: Path, flag: str, message: str
) -> None:
    out = tmp_path / "cache"
    refused(harvested(*flags(undisturbed.text, out, *flag.split())), message)
    assert files(tmp_path) == {}


def test_a_text_that_is_too_short_is_refused_and_leaves_the_folder_for_another_one(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """The correction of a bad command must not be refused for differing from it."""
    out, short = tmp_path / "cache", tmp_path / "short.txt"
    short.write_text("Nothing much.")
    refused(harvested(*flags(short, out)), "holds [0-9]+ tokens in this split")
    corrected = flags(undisturbed.text, out, "--n-tokens", 100, "--held-out-tokens", 0)
    assert harvested(*corrected).code == 0
    assert ActivationCache.open(out).verify() == []


def test_what_is_not_a_cache_is_refused_and_left_as_it_is(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    out = tmp_path / "folder"
    out.mkdir()
    (out / FILE).write_text("not JSON")
    for done in (harvested("--verify", "--out", out), harvested(*flags(undisturbed.text, out))):
        refused(done, f"{FILE}")
    assert files(out) == {FILE: b"not JSON"}


def test_a_file_in_the_place_of_the_folder_is_refused(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for done in (
        harvested("--verify", "--out", tmp_path / "file"),
        harvested(*flags(undisturbed.text, tmp_path / "file")),
    ):
        refused(done, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_two_at_once_are_refused_and_the_first_one_is_not_disturbed(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks
) -> None:
    """The first one is stopped in the midst of its work until the second one has been refused."""
    out = tmp_path / "cache"
    first = forks.harvest(*flags(undisturbed.text, out), stop_at=undisturbed.n_moments // 2)
    for command in (flags(undisturbed.text, out), ["--repair", "--out", str(out)]):
        if command[0] == "--repair":
            flip(out / "held_out" / "000000.safetensors", 5_000)
        before = files(out)
        refused(forks.run(*command), f"process {first.pid} on .* is writing to {out}")
        assert files(out) == before
    assert forks.kill(first, signal.SIGCONT).code == 0
    flip(out / "held_out" / "000000.safetensors", 5_000)  # back again
    assert files(out) == undisturbed.content
