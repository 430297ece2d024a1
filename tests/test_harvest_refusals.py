"""Bad input to scripts/harvest.py is refused in one line, and changes nothing."""

import shutil
import signal
from pathlib import Path

import pytest
from forks import Forks, files, flags, flip
from harvests import Undisturbed, harvest_undisturbed, refused

from activation_cache.cache.manifest import FILE


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return harvest_undisturbed(forks, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def cache(undisturbed: Undisturbed, tmp_path: Path) -> Path:
    """A copy to do something to."""
    return shutil.copytree(undisturbed.folder, tmp_path / "cache")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("--n-tokens 3000", "begun with n_tokens 2000, not 3000"),
        ("--held-out-tokens 0", "begun with held_out_tokens 300, not 0"),
        ("--codec int8", "begun with codec 'bfloat16', not 'int8'"),
        ("--shard-tokens 100", "begun with shard_tokens 200, not 100"),
        ("--context-size 16", "begun with context_size 32, not 16"),
        ("--dtype bfloat16", "begun with model weights '.*', not '.*'"),
        (
            "--hook-name blocks.1.hook_resid_pre",
            r"begun with hook_names \('blocks.2.hook_resid_pre',\), not \('blocks.1.hook_resid",
        ),
        ("--dataset docstrings", "begun with dataset '.*text.txt', not 'docstrings'"),
    ],
)
def test_other_settings_are_refused_with_the_difference_and_change_nothing(
    undisturbed: Undisturbed, cache: Path, forks: Forks, changed: str, message: str
) -> None:
    done = forks.run(*flags(undisturbed.text, cache, *changed.split()))
    refused(done, f"the cache {cache} was {message}.*: give that, or another folder")
    assert files(cache) == undisturbed.content


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--hook-name blocks.9.hook_resid_pre", "blocks.9.hook_resid_pre.*layers 0 to 3"),
        ("--hook-name blocks.1.hook_magic", "unknown hook name 'blocks.1.hook_magic'"),
        ("--codec int4", "int4"),
        ("--model nowhere/to-be-found", "cannot load the model 'nowhere/to-be-found'"),
        ("--dataset no/such/file.txt", "no text file at no/such/file.txt"),
        ("--n-tokens 0", "n_tokens must be at least 1, got 0"),
        ("--n-tokens many", "many"),
        ("--held-out-tokens -1", "held_out_tokens must be at least 0, got -1"),
        ("--shard-tokens 0", "shard_tokens must be at least 1, got 0"),
        ("--forward-tokens 0", "forward_tokens must be at least 1, got 0"),
        ("--context-size 1", "context_size must be at least 2, got 1"),
        ("--context-size 4096", "context_size 4096 is more than tiny can see: give at most 128"),
        ("--device tpu", "device"),
        ("--magic 1", "--magic"),
        ("--verify", "is not an activation cache: it has no manifest.json"),
        ("--repair", "is not an activation cache: it has no manifest.json"),
    ],
)
def test_bad_flags_are_refused_in_one_line_and_leave_nothing_behind(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks, flag: str, message: str
) -> None:
    out = tmp_path / "cache"
    refused(forks.run(*flags(undisturbed.text, out, *flag.split())), message)
    assert files(tmp_path) == {}


def test_a_text_that_is_too_short_is_refused_and_leaves_the_folder_for_another_one(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks
) -> None:
    """The correction of a bad command must not be refused for differing from it."""
    out, short = tmp_path / "cache", tmp_path / "short.txt"
    short.write_text("Nothing much.")
    refused(forks.run(*flags(short, out)), "holds [0-9]+ tokens in this split")
    done = forks.run(*flags(undisturbed.text, out))
    assert done.code == 0, done
    assert files(out) == undisturbed.content


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON", ""])
def test_what_is_not_a_cache_is_refused_and_left_as_it_is(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks, content: str
) -> None:
    out = tmp_path / "folder"
    out.mkdir()
    (out / FILE).write_text(content)
    for done in (forks.run("--verify", "--out", out), forks.run(*flags(undisturbed.text, out))):
        refused(done, f"{FILE}")
    assert files(out) == {FILE: content.encode()}


def test_a_file_in_the_place_of_the_folder_is_refused(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks
) -> None:
    (tmp_path / "file").write_text("mine")
    for done in (
        forks.run("--verify", "--out", tmp_path / "file"),
        forks.run(*flags(undisturbed.text, tmp_path / "file")),
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
