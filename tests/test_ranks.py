"""Several processes that harvest into one cache: its files are those of a single process.

The ranks are real ones that talk through gloo; but for one test, without torchrun around them.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from forks import HARVEST, Done, Forks, files, flags, flip, free_port, write_text

from activation_cache import ActivationCache
from activation_cache.cache.storage import LOCK_FILE, TEMPORARY

pytestmark = pytest.mark.slow


class Single(NamedTuple):
    """What one process makes of a text."""

    text: Path
    content: dict[str, bytes]
    n_moments: int


@pytest.fixture(scope="module")
def single(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Single:
    base = tmp_path_factory.mktemp("single")
    text, moments = write_text(base / "text.txt"), base / "moments"
    done = forks.run(*flags(text, base / "cache"), moments=moments)
    assert done.code == 0, done
    return Single(text, files(base / "cache"), int(moments.read_text()))


def ranks(forks: Forks, *arguments: object, n: int = 2, **of_one: dict[str, Any]) -> list[Done]:
    """Run the script in `n` ranks; `rank1={...}` gives one of them options of its own."""
    shared = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = [
        forks.harvest(*arguments, env=shared | {"RANK": str(rank)}, **of_one.get(f"rank{rank}", {}))
        for rank in range(n)
    ]
    return [forks.wait(child) for child in children]


def assert_valid(out: Path) -> None:
    assert ActivationCache.open(out).verify() == []


# One cache ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
def test_ranks_write_the_files_of_a_single_process(
    forks: Forks, single: Single, tmp_path: Path, n: int
) -> None:
    """Two held-out shards and nine for training: neither divides by both numbers of ranks."""
    done = ranks(forks, *flags(single.text, tmp_path / "cache"), n=n)
    assert [rank.code for rank in done] == [0] * n
    assert files(tmp_path / "cache") == single.content
    assert "2,000" in done[0].out
    assert [(rank.out, rank.err) for rank in done[1:]] == [("", "")] * (n - 1)


def test_each_rank_writes_its_share_of_the_shards(
    forks: Forks, single: Single, tmp_path: Path
) -> None:
    """Counted by moments: a rank that did everything would have as many as a single process."""
    counts = [tmp_path / "0", tmp_path / "1"]
    ranks(
        forks,
        *flags(single.text, tmp_path / "cache"),
        rank0={"moments": counts[0]},
        rank1={"moments": counts[1]},
    )
    of_rank = [int(path.read_text()) for path in counts]
    # Rank 1: a held-out shard of one forward pass and four of training of two each, and for each
    # shard two syncs and a rename. No lock and no manifest.
    assert of_rank[1] == (1 + 3) + 4 * (2 + 3)
    assert of_rank[0] < single.n_moments - of_rank[1]


def test_ranks_that_reach_the_end_of_the_text_write_the_files_of_a_single_process(
    forks: Forks, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {i} is about the number {i * i}." for i in range(200)))
    command = ["--n-tokens", 1_000_000, "--held-out-tokens", 0]
    assert forks.run(*flags(text, tmp_path / "single", *command)).code == 0
    assert ActivationCache.open(tmp_path / "single").n_rows() > 1000
    done = ranks(forks, *flags(text, tmp_path / "ranks", *command))
    assert [rank.code for rank in done] == [0, 0]
    assert files(tmp_path / "ranks") == files(tmp_path / "single")


@pytest.mark.slow
def test_torchrun_writes_the_files_of_a_process_without_it(single: Single, tmp_path: Path) -> None:
    """Both as they are typed. torchrun gives each process one thread, alone it has all cores."""
    env = {name: x for name, x in os.environ.items() if name != "OMP_NUM_THREADS"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for out, launcher in ((tmp_path / "two", torchrun), (tmp_path / "one", [])):
        subprocess.run(
            [sys.executable, *launcher, str(HARVEST), *flags(single.text, out)],
            check=True,
            capture_output=True,
            env=env,
        )
    assert files(tmp_path / "two") == files(tmp_path / "one")


# Interrupted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.3, 0.8])
def test_two_ranks_that_were_killed_are_continued_by_one_process(
    forks: Forks, single: Single, tmp_path: Path, part: float
) -> None:
    out = tmp_path / "cache"
    # A rank has about half as many moments as a single process.
    kill = {"kill_at": max(2, round(part * single.n_moments / 2)), "half_written": True}
    done = ranks(forks, *flags(single.text, out), rank0=kill, rank1=kill)
    assert -signal.SIGKILL in [rank.code for rank in done]
    assert_valid(out)
    assert files(out) != single.content
    assert forks.run(*flags(single.text, out)).code == 0
    assert files(out) == single.content


@pytest.mark.parametrize("part", [0.3, 0.8])
def test_one_process_that_was_killed_is_continued_by_two_ranks(
    forks: Forks, single: Single, tmp_path: Path, part: float
) -> None:
    out = tmp_path / "cache"
    kill_at = round(part * single.n_moments)
    assert forks.run(*flags(single.text, out), kill_at=kill_at).code == -signal.SIGKILL
    assert_valid(out)
    assert [rank.code for rank in ranks(forks, *flags(single.text, out))] == [0, 0]
    assert files(out) == single.content


@pytest.mark.parametrize("dying", [0, 1])
def test_a_rank_that_dies_takes_the_others_along_and_leaves_a_valid_cache(
    forks: Forks, single: Single, tmp_path: Path, dying: int
) -> None:
    """Nobody waits for ever for a rank that is gone, even without torchrun's watch."""
    out = tmp_path / "cache"
    done = ranks(forks, *flags(single.text, out), **{f"rank{dying}": {"kill_at": 12}})
    assert done[dying].code == -signal.SIGKILL
    assert done[1 - dying].code not in (0, -signal.SIGKILL)
    assert_valid(out)
    assert [rank.code for rank in ranks(forks, *flags(single.text, out))] == [0, 0]
    assert files(out) == single.content


# Bad input ---------------------------------------------------------------------------------------


def refused(done: list[Done], message: str) -> None:
    """Every rank ends with 2, and one line is all that is told."""
    told = [line for rank in done for line in rank.err.splitlines()]
    assert [rank.code for rank in done] == [2] * len(done), told
    assert [line for line in told if message in line], told
    assert not [line for line in told if "Traceback" in line], told
    assert all(line.startswith("error: ") for line in told), told


def test_other_settings_are_refused_by_all_ranks(
    forks: Forks, single: Single, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    assert forks.run(*flags(single.text, out)).code == 0
    done = ranks(forks, *flags(single.text, out, "--codec", "int8"))
    refused(done, "was begun with codec 'bfloat16', not 'int8'")
    assert files(out) == single.content


def test_ranks_are_refused_while_another_process_writes(
    forks: Forks, single: Single, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    first = forks.harvest(*flags(single.text, out), stop_at=20)
    before = files(out)
    done = ranks(forks, *flags(single.text, out))
    try:
        refused(done, f"process {first.pid} on ")
        assert files(out) == before
    finally:
        assert forks.kill(first, signal.SIGCONT).code == 0
    assert files(out) == single.content


def test_a_rank_without_room_tells_it_and_the_harvest_goes_on_later(
    forks: Forks, single: Single, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    done = ranks(forks, *flags(single.text, out), rank1={"file_limit": 50_000})
    assert done[1].code == 2
    assert done[1].err.startswith(f"error: no room in {out} for train/000001.safetensors")
    assert done[0].code not in (0, -signal.SIGKILL)
    assert_valid(out)
    assert not [name for name in files(out) if name.endswith((LOCK_FILE, TEMPORARY))]
    assert [rank.code for rank in ranks(forks, *flags(single.text, out))] == [0, 0]
    assert files(out) == single.content


# Verify and repair -------------------------------------------------------------------------------


def test_ranks_verify_and_tell_it_once(forks: Forks, single: Single, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    assert forks.run(*flags(single.text, out)).code == 0
    done = ranks(forks, "--verify", "--out", out)
    assert [rank.code for rank in done] == [0, 0]
    assert "every byte is as it was written" in done[0].out
    assert (done[1].out, done[1].err) == ("", "")


def test_ranks_repair_a_cache_without_getting_into_each_others_way(
    forks: Forks, single: Single, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    assert forks.run(*flags(single.text, out)).code == 0
    for number in range(8):
        flip(out / f"train/{number:06d}.safetensors", 50_000)
    done = ranks(forks, "--repair", "--out", out)
    assert files(out) == single.content
    assert [rank.code for rank in done] == [0, 0], done
