"""scripts/harvest.py as its users meet it: exit codes, one line for what is wrong, Ctrl-C, kills.

Every command is a process of its own; most are forked, which spares them the imports.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from forks import HARVEST, Done, Forks, files, flags, flip, write_text

from activation_cache import ActivationCache
from activation_cache.manifest import FILE
from activation_cache.storage import LOCK_FILE, TEMPORARY

RESID = "blocks.2.hook_resid_pre"


class Undisturbed(NamedTuple):
    """A harvest that nothing came in the way of."""

    text: Path
    folder: Path
    done: Done
    n_moments: int
    """See `Forks.harvest`."""

    @property
    def content(self) -> dict[str, bytes]:
        return files(self.folder)


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    base = tmp_path_factory.mktemp("undisturbed")
    text, folder, moments = write_text(base / "text.txt"), base / "cache", base / "moments"
    done = forks.run(*flags(text, folder), moments=moments)
    return Undisturbed(text, folder, done, int(moments.read_text()))


@pytest.fixture
def cache(undisturbed: Undisturbed, tmp_path: Path) -> Path:
    """A copy to do something to."""
    return shutil.copytree(undisturbed.folder, tmp_path / "cache")


def refused(done: Done, message: str) -> None:
    assert done.code == 2, done
    assert re.search(message, done.err), done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err


def cells(table: str, first: str) -> list[str]:
    """The other cells of the row of a printed table that begins so."""
    (row,) = (line for line in table.splitlines() if line.startswith(f"│ {first} "))
    return [cell.strip() for cell in row.strip("│").split("│")][1:]


# The main job ------------------------------------------------------------------------------------


def test_a_harvest_gives_a_cache_and_a_table_of_what_is_in_it(undisturbed: Undisturbed) -> None:
    done = undisturbed.done
    assert (done.code, done.err) == (0, "")
    assert f"cache {undisturbed.folder}" in " ".join(done.out.split())
    cache = ActivationCache.open(undisturbed.folder)
    width, train, held_out, norm, fvu = cells(done.out, RESID)
    assert (width, train, held_out) == ("192", "2,000", "300")
    assert (cache.n_rows("train"), cache.n_rows("held_out")) == (2000, 300)
    assert float(norm) == pytest.approx(cache.manifest.statistics[RESID]["mean_norm"], rel=1e-3)
    assert float(fvu) == pytest.approx(cache.manifest.codec_fvu(RESID), rel=0.1)
    assert set(undisturbed.content) == {
        FILE,
        *(f"train/{i:06d}.safetensors" for i in range(9)),
        *(f"held_out/{i:06d}.safetensors" for i in range(2)),
    }
    assert "text ended" not in done.out


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_same_bytes_with_as_many_threads_as_it_likes(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Not forked: the command line as it is typed, on every core, where the forks use one."""
    env = {name: x for name, x in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run(
        [sys.executable, str(HARVEST), *flags(undisturbed.text, tmp_path / "cache")],
        check=True,
        stdout=subprocess.DEVNULL,
        env=env,
    )
    made = files(tmp_path / "cache")
    assert [name for name, data in undisturbed.content.items() if made.get(name) != data] == []
    assert set(made) == set(undisturbed.content)


def test_the_same_command_again_changes_nothing(
    undisturbed: Undisturbed, cache: Path, forks: Forks
) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.*")}
    done = forks.run(*flags(undisturbed.text, cache))
    assert done.code == 0, done
    assert cells(done.out, RESID) == cells(undisturbed.done.out, RESID)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.*")} == before
    assert files(cache) == undisturbed.content


def test_a_text_that_ends_early_is_told(tmp_path: Path, forks: Forks) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "cache"
    text.write_text("\n\n".join(f"Paragraph {i} is about the number {i * i}." for i in range(300)))
    done = forks.run(*flags(text, out, "--n-tokens", 1_000_000, "--held-out-tokens", 0))
    assert done.code == 0, done
    n_rows = ActivationCache.open(out).n_rows()
    assert 2_000 < n_rows < 6_000
    assert f"the text ended after {n_rows:,} of 1,000,000 training rows" in done.out


def test_several_sites_and_a_codec_by_flags(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks
) -> None:
    mlp = "blocks.1.mlp.hook_post"
    sites = ["--hook-name", mlp, "--hook-name", RESID, "--codec", "int8"]
    done = forks.run(*flags(undisturbed.text, tmp_path / "cache", *sites))
    assert done.code == 0, done
    cache = ActivationCache.open(tmp_path / "cache")
    assert (cache.sites, cache.config.codec) == ((mlp, RESID), "int8")
    assert cells(done.out, mlp)[0] == "768"


def test_help_names_every_flag(forks: Forks) -> None:
    shown = forks.run("--help")
    assert shown.code == 0
    contract = (
        "model hook-name dataset text-column n-tokens held-out-tokens context-size forward-tokens "
        "codec shard-tokens dtype device out verify repair"
    )
    for flag in contract.split():
        assert f"--{flag}" in shown.out, flag


# Verify and repair -------------------------------------------------------------------------------


def test_an_intact_cache_passes(cache: Path, forks: Forks) -> None:
    for flag in ("--verify", "--repair"):
        before = files(cache)
        done = forks.run(flag, "--cache", cache)
        assert (done.code, done.err) == (0, "")
        assert "every byte is as it was written" in done.out
        assert files(cache) == before


def test_damage_is_named_by_its_shard_and_mended_to_the_same_bytes(
    undisturbed: Undisturbed, cache: Path, forks: Forks
) -> None:
    shard = "train/000003.safetensors"
    flip(cache / shard, 50_000)
    damaged = files(cache)
    verified = forks.run("--verify", "--out", cache)
    refused(verified, f"{shard} of {cache} is damaged: .* --repair harvests damaged shards again")
    assert files(cache) == damaged
    repaired = forks.run("--repair", "--out", cache)
    assert repaired.code == 0, repaired
    assert shard in repaired.out
    assert files(cache) == undisturbed.content


def test_everything_that_is_damaged_is_named_and_mended(
    undisturbed: Undisturbed, cache: Path, forks: Forks
) -> None:
    shards = [f"{name}.safetensors" for name in ("held_out/000001", "train/000000", "train/000008")]
    (cache / shards[0]).unlink()
    flip(cache / shards[1], 3)
    (cache / shards[2]).write_bytes(undisturbed.content[shards[2]][:-1])
    verified = forks.run("--verify", "--out", cache)
    refused(verified, f"{shards[0]} of {cache} is missing, and 2 more")
    assert all(shard in verified.out for shard in shards[1:])
    assert forks.run("--repair", "--out", cache).code == 0
    assert files(cache) == undisturbed.content


def test_a_shard_that_cannot_be_mended_is_left_with_the_reason(cache: Path, forks: Forks) -> None:
    (cache / "notes.txt").write_text("mine")
    done = forks.run("--repair", "--out", cache)
    refused(done, "notes.txt does not belong to the cache")
    assert (cache / "notes.txt").read_text() == "mine"


def test_a_shard_is_not_mended_from_another_text(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks
) -> None:
    """It gives as many rows, but they are of other tokens than those that the cache was made of."""
    text = tmp_path / "text.txt"
    text.write_bytes(undisturbed.text.read_bytes())
    out = tmp_path / "cache"
    assert forks.run(*flags(text, out)).code == 0
    shard = "train/000004.safetensors"
    flip(out / shard, 50_000)
    text.write_text(text.read_text().replace("about", "under"))
    done = forks.run("--repair", "--out", out)
    refused(done, f"{shard} cannot be harvested again: the text of .* is no longer what it was")


def test_damage_to_the_manifest_is_told(cache: Path, forks: Forks) -> None:
    flip(cache / FILE, 200)
    for flag in ("--verify", "--repair"):
        refused(forks.run(flag, "--out", cache), f"{FILE} of {cache} ")


def test_an_unfinished_cache_is_intact_and_not_said_to_be_at_the_end_of_its_text(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks
) -> None:
    out = tmp_path / "cache"
    killed = forks.run(*flags(undisturbed.text, out), kill_at=undisturbed.n_moments // 2)
    assert killed.code == -signal.SIGKILL
    done = forks.run("--verify", "--out", out)
    assert (done.code, done.err) == (0, "")
    assert 0 < ActivationCache.open(out).n_rows() < 2000
    assert "text ended" not in done.out


# Bad input ---------------------------------------------------------------------------------------


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


# Interrupted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.1, 0.4, 0.9])
def test_ctrl_c_exits_with_130_and_the_same_command_goes_on_to_the_same_bytes(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks, part: float
) -> None:
    out = tmp_path / "cache"
    command = flags(undisturbed.text, out)
    child = forks.harvest(*command, stop_at=round(part * undisturbed.n_moments))
    done = forks.kill(child, signal.SIGINT)
    assert done.code == 130, done
    assert done.err == "interrupted\n"
    found = files(out)
    assert 0 < len(found) < len(undisturbed.content)
    assert not [name for name in found if name.endswith((LOCK_FILE, TEMPORARY))]
    assert ActivationCache.open(out).verify() == []
    assert forks.run(*command).code == 0
    assert files(out) == undisturbed.content


class Killed(NamedTuple):
    """What a kill left behind."""

    has_manifest: bool
    n_shards: int
    """That the manifest names."""
    unnamed_shards: int
    half_files: int


def kill_and_look(
    forks: Forks, out: Path, command: list[str], rng: random.Random, n_moments: int
) -> Killed | None:
    """Harvest until a random moment or for a random time, and assert that what is there is valid.

    None where the harvest was faster.
    """
    if rng.random() < 0.8:
        kill_at, half_written = rng.randint(1, n_moments), rng.random() < 0.5
        done = forks.run(*command, kill_at=kill_at, half_written=half_written)
    else:
        child = forks.harvest(*command)
        time.sleep(rng.uniform(0.05, 0.3))
        done = forks.kill(child)
    assert done.code in (0, -signal.SIGKILL), done
    names = [path.relative_to(out).as_posix() for path in out.rglob("*.*")]
    n_files = sum(name.endswith(".safetensors") for name in names)
    half_files = sum(name.endswith(TEMPORARY) for name in names)
    n_shards = 0
    if FILE in names:
        cache = ActivationCache.open(out)
        assert cache.verify() == []
        n_shards = sum(len(split.shards) for split in cache.manifest.splits.values())
    killed = Killed(FILE in names, n_shards, n_files - n_shards, half_files)
    return killed if done.code else None


@pytest.mark.slow
def test_fifty_kills_at_random_moments_leave_a_valid_cache_and_end_with_the_same_bytes(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks
) -> None:
    rng = random.Random(0)
    killed: list[Killed] = []
    n_finished = 0
    while len(killed) < 50:
        out = tmp_path / f"cache-{n_finished}"
        command = flags(undisturbed.text, out)
        # Every harvest is killed several times, the later ones of a few moments each.
        for _ in range(rng.randint(3, 8)):
            kill = kill_and_look(forks, out, command, rng, undisturbed.n_moments // 2)
            killed += [kill] if kill else []
        done = forks.run(*command)
        assert done.code == 0, done
        assert files(out) == undisturbed.content
        n_finished += 1
    assert n_finished >= 6
    # The kills came at moments of every kind.
    assert len({kill.n_shards for kill in killed}) >= 8
    assert any(not kill.has_manifest for kill in killed)
    assert any(kill.unnamed_shards for kill in killed)
    assert any(kill.half_files for kill in killed)


@pytest.mark.slow
def test_a_kill_at_any_single_moment_leaves_a_valid_cache_that_goes_on_to_the_same_bytes(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks
) -> None:
    """Before every forward pass, every sync, every rename, every link and every removal."""
    smaller = ("--n-tokens", 500)
    whole, moments = tmp_path / "whole", tmp_path / "moments"
    assert forks.run(*flags(undisturbed.text, whole, *smaller), moments=moments).code == 0
    for moment in range(1, int(moments.read_text()) + 1):
        out = tmp_path / f"cache-{moment}"
        command = flags(undisturbed.text, out, *smaller)
        done = forks.run(*command, kill_at=moment, half_written=bool(moment % 2))
        assert done.code == -signal.SIGKILL, (moment, done)
        if (out / FILE).exists():
            assert ActivationCache.open(out).verify() == [], moment
        assert forks.run(*command).code == 0, moment
        assert files(out) == files(whole), moment
