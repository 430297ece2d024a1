"""scripts/harvest.py as its users meet it: what it makes, what it prints, verify and repair.

Every command is a process of its own; most are forked, which spares them the imports.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forks import HARVEST, Forks, files, flags, flip
from harvests import Undisturbed, refused

from activation_cache import ActivationCache
from activation_cache.cache.manifest import FILE

RESID = "blocks.2.hook_resid_pre"


@pytest.fixture
def cache(undisturbed: Undisturbed, tmp_path: Path) -> Path:
    """A copy to do something to."""
    return shutil.copytree(undisturbed.folder, tmp_path / "cache")


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


def test_everything_that_is_damaged_is_named_and_mended(
    undisturbed: Undisturbed, cache: Path, forks: Forks
) -> None:
    shards = [f"{name}.safetensors" for name in ("held_out/000001", "train/000000", "train/000008")]
    (cache / shards[0]).unlink()
    flip(cache / shards[1], 3)
    (cache / shards[2]).write_bytes(undisturbed.content[shards[2]][:-1])
    verified = forks.run("--verify", "--out", cache)
    hint = "--repair harvests damaged shards again"
    refused(verified, f"{shards[0]} of {cache} is missing, and 2 more.*{hint}")
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
