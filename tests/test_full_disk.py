"""What happens where there is no room. The disks are real, and small."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import Done, Forks, files, flags, small_disk
from harvests import Undisturbed

from activation_cache import ActivationCache
from activation_cache.cache.storage import LOCK_FILE, TEMPORARY


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB; a cache needs 0.95 MB of it."""
    with small_disk(tmp_path / "disk", "2m") as reason:
        if reason:
            pytest.skip(reason)
        yield tmp_path / "disk"


def fill(disk: Path, free: int) -> Path:
    """Leave so many bytes of a disk."""
    ballast = disk / "ballast"
    left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
    ballast.write_bytes(bytes(left - free))
    return ballast


def assert_no_room(done: Done, out: Path) -> None:
    assert done.code == 2, done
    assert done.err.startswith(f"error: no room in {out} for "), done.err
    assert "run the same command again" in done.err
    assert done.err.count("\n") == 1
    assert not [name for name in files(out) if name.endswith((TEMPORARY, LOCK_FILE))]


@pytest.mark.parametrize(
    "free_kb", [400, *(pytest.param(n, marks=pytest.mark.slow) for n in (12, 920))]
)
def test_a_harvest_on_a_full_disk_stops_with_a_valid_cache_and_goes_on_once_there_is_room(
    disk: Path, undisturbed: Undisturbed, forks: Forks, free_kb: int
) -> None:
    out = disk / "cache"
    ballast = fill(disk, free_kb * 1024)
    assert_no_room(forks.run(*flags(undisturbed.text, out)), out)
    assert_no_room(forks.run(*flags(undisturbed.text, out)), out)  # nothing has changed
    cache = ActivationCache.open(out)
    assert cache.verify() == []
    assert not cache.manifest.complete
    ballast.unlink()
    done = forks.run(*flags(undisturbed.text, out))
    assert done.code == 0, done
    assert files(out) == undisturbed.content


def test_a_disk_without_room_for_a_single_file_is_told_in_one_line(
    disk: Path, undisturbed: Undisturbed, forks: Forks
) -> None:
    out = disk / "cache"
    out.mkdir()
    ballast = fill(disk, 0)
    done = forks.run(*flags(undisturbed.text, out))
    assert done.code == 2, done
    assert re.fullmatch(f"error: .*{out}.*", done.err.removesuffix("\n"))
    assert re.search("no room|No space left", done.err)
    assert files(out) == {}
    ballast.unlink()
    assert forks.run(*flags(undisturbed.text, out)).code == 0
    assert files(out) == undisturbed.content


def test_a_file_larger_than_the_limit_is_told_as_no_room_and_the_harvest_goes_on_without_it(
    tmp_path: Path, undisturbed: Undisturbed, forks: Forks
) -> None:
    """`ulimit -f`: a shard takes 97 kB, the first manifests take less than 20."""
    out = tmp_path / "cache"
    done = forks.run(*flags(undisturbed.text, out), file_limit=50_000)
    assert_no_room(done, out)
    assert list(files(out)) == ["manifest.json"]
    assert ActivationCache.open(out).verify() == []
    assert forks.run(*flags(undisturbed.text, out)).code == 0
    assert files(out) == undisturbed.content
