"""scripts/harvest.py goes on to the same bytes after Ctrl-C, and after a kill at any moment."""

import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from forks import Forks, files, flags
from harvests import Undisturbed

from activation_cache import ActivationCache
from activation_cache.cache.manifest import FILE
from activation_cache.cache.storage import LOCK_FILE, TEMPORARY


def test_ctrl_c_exits_with_130_and_the_same_command_goes_on_to_the_same_bytes(
    undisturbed: Undisturbed, tmp_path: Path, forks: Forks
) -> None:
    out = tmp_path / "cache"
    command = flags(undisturbed.text, out)
    child = forks.harvest(*command, stop_at=undisturbed.n_moments // 2)
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
