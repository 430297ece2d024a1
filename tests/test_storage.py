"""Files that are whole or not there, one writer at a time, and what happens where there is no room.

Other writers are real processes.
"""

import errno
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
from forks import (
    Done,
    Forks,
    files,
    flags,
    refusal,
    shared_forks,
    small_disk,
    status_of,
    write_text,
)

from activation_cache import ActivationCache, InputError
from activation_cache.storage import LOCK_FILE, TEMPORARY, Storage

HOST = socket.gethostname()


@pytest.fixture(scope="module")
def forks() -> Forks:
    return shared_forks()


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder in memory that nobody else uses."""
    name = f"storage-{uuid.uuid4().hex}"
    yield f"memory://{name}"
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{name}"):
        fs.rm(f"/{name}", recursive=True)


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> Storage:
    url = tmp_path / "folder" if request.param == "local" else memory
    return Storage(url, read_cache=tmp_path / "copies")


# Files -------------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written_and_listed_by_its_path(storage: Storage) -> None:
    storage.write("train/000000.safetensors", b"\x00rows\xff")
    storage.write("manifest.json", b"{}")
    assert storage.read("train/000000.safetensors") == b"\x00rows\xff"
    assert storage.names() == ["manifest.json", "train/000000.safetensors"]
    assert storage.exists("manifest.json")
    assert not storage.exists("train/000001.safetensors")


def test_a_folder_that_is_not_there_holds_no_files(storage: Storage) -> None:
    assert storage.names() == []
    assert not storage.exists("manifest.json")
    with pytest.raises(FileNotFoundError):
        storage.read("manifest.json")


def test_writing_again_replaces_the_file(storage: Storage) -> None:
    storage.write("a", b"a long first version")
    storage.write("a", b"short")
    assert storage.read("a") == b"short"
    assert storage.names() == ["a"]


def test_an_empty_file_is_a_file(storage: Storage) -> None:
    storage.write("a", b"")
    assert storage.exists("a")
    assert storage.read("a") == b""


def test_a_removed_file_is_gone_and_may_be_removed_again(storage: Storage) -> None:
    storage.write("a", b"1")
    storage.write("b", b"2")
    storage.remove("a")
    storage.remove("a")
    assert storage.names() == ["b"]


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(storage: Storage) -> None:
    for name in ("a", f"a.1-2{TEMPORARY}", f"train/b.3-4{TEMPORARY}", "train/b", "tmp"):
        storage.write(name, b"x")
    storage.remove_leftovers()
    assert storage.names() == ["a", "tmp", "train/b"]


def test_a_path_with_a_tilde_or_a_trailing_slash_is_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Storage(f"{tmp_path}/folder/").write("a", b"1")
    assert Storage(tmp_path / "folder").names() == ["a"]
    assert Storage("~/folder").read("a") == b"1"


@pytest.mark.parametrize("url", ["nowhere://folder", "abfs://container/folder"])
def test_a_url_of_an_unknown_kind_is_refused_in_one_line(url: str) -> None:
    assert f"cannot use {url}" in refusal(lambda: Storage(url))


# Whole or not there ------------------------------------------------------------------------------


def test_nothing_is_seen_of_a_file_before_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path)
    storage.write("a", b"old")
    seen: list[tuple[bytes, bytes]] = []
    replace = os.replace

    def look(source: Any, target: Any) -> None:
        """At the last moment before the file is put there."""
        seen.append((storage.read("a"), Path(source).read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    storage.write("a", b"new")
    assert seen == [(b"old", b"new")]
    assert storage.read("a") == b"new"


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a loss of power needs: the content is synced, then renamed, then the folder synced."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(number: int) -> None:
        name = Path(f"/proc/self/fd/{number}").readlink().name
        size = os.fstat(number).st_size
        calls.append("sync folder" if name == "cache" else f"sync {size} bytes of {name[:2]}")
        fsync(number)

    def renamed(source: Any, target: Any) -> None:
        calls.append(f"rename to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    Storage(tmp_path / "cache").write("a", b"12345")
    assert calls == ["sync 5 bytes of a.", "rename to a", "sync folder"]


def test_a_reader_beside_a_writer_reads_one_version_or_the_other(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    versions = [bytes([i]) * (100_000 + i) for i in range(60)]
    storage.write("a", versions[0])
    done = threading.Event()
    read: set[bytes] = set()

    def read_on() -> None:
        reader = Storage(tmp_path)
        while not done.is_set():
            read.add(reader.read("a"))

    thread = threading.Thread(target=read_on)
    thread.start()
    for version in versions:
        storage.write("a", version)
    done.set()
    thread.join()
    assert read and read <= set(versions)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (OSError(errno.EIO, "Input/output error"), InputError, "cannot write a in"),
        (OSError(errno.ENOSPC, "No space left on device"), InputError, "no room in"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), InputError, "no room in"),
        (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt, "Ctrl-C"),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    failure: BaseException,
    kind: type[BaseException],
    message: str,
) -> None:
    storage = Storage(tmp_path)
    storage.write("a", b"old")

    def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        with pytest.raises(kind, match=message) as raised:
            storage.write("a", b"new")
    assert "\n" not in str(raised.value)
    assert files(tmp_path) == {"a": b"old"}


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refusal(lambda: Storage(tmp_path / "file" / "cache").write("a", b""))
    assert message.startswith(f"cannot write a in {tmp_path}/file/cache: ")


# Copies of remote files --------------------------------------------------------------------------


def test_a_local_file_is_served_where_it_lies(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "folder", read_cache=tmp_path / "copies")
    storage.write("train/a", b"1")
    assert storage.local_file("train/a", "v1") == tmp_path / "folder" / "train" / "a"
    assert not (tmp_path / "copies").exists()


def test_a_remote_file_is_copied_once(memory: str, tmp_path: Path) -> None:
    storage = Storage(memory, read_cache=tmp_path)
    storage.write("train/a", b"1")
    copy = storage.local_file("train/a", "v1")
    assert copy.is_relative_to(tmp_path) and copy.read_bytes() == b"1"
    storage.remove("train/a")
    assert Storage(memory, read_cache=tmp_path).local_file("train/a", "v1") == copy
    assert copy.read_bytes() == b"1"
    assert len(files(tmp_path)) == 1


def test_each_version_of_a_remote_file_has_its_own_copy(memory: str, tmp_path: Path) -> None:
    storage = Storage(memory, read_cache=tmp_path)
    storage.write("a", b"old")
    old = storage.local_file("a", "v1")
    storage.write("a", b"new")
    new = storage.local_file("a", "v2")
    assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")


def test_a_copy_that_was_interrupted_is_made_again(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(memory, read_cache=tmp_path)
    storage.write("a", b"content")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            storage.local_file("a", "v1")
    assert files(tmp_path) == {}
    assert storage.local_file("a", "v1").read_bytes() == b"content"


def test_a_remote_file_that_is_missing_leaves_no_copy(memory: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Storage(memory, read_cache=tmp_path / "copies").local_file("a", "v1")
    assert files(tmp_path) == {}


# One writer --------------------------------------------------------------------------------------


def enter(storage: Storage) -> None:
    with storage.only_writer():
        pass


def test_the_lock_names_its_process_while_it_is_held_and_is_gone_behind(storage: Storage) -> None:
    with storage.only_writer():
        host, pid, _ = storage.read(LOCK_FILE).decode().split()
        assert (host, int(pid)) == (HOST, os.getpid())
        assert storage.names() == [LOCK_FILE]
    assert storage.names() == []


@pytest.mark.parametrize("error", [InputError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_the_lock_is_gone_after_an_exception(storage: Storage, error: BaseException) -> None:
    with pytest.raises(type(error)), storage.only_writer():
        raise error
    assert storage.names() == []


def test_a_second_writer_of_the_same_process_is_refused(storage: Storage) -> None:
    with storage.only_writer():
        before = storage.read(LOCK_FILE)
        assert f"process {os.getpid()} on {HOST}" in refusal(lambda: enter(storage))
        assert storage.read(LOCK_FILE) == before
    enter(storage)


def test_a_second_writer_is_refused_with_the_process_and_the_host_of_the_first(
    tmp_path: Path, forks: Forks
) -> None:
    first = forks.hold_lock(tmp_path)
    lock = (tmp_path / LOCK_FILE).read_bytes()
    message = refusal(lambda: enter(Storage(tmp_path)))
    assert f"process {first.pid} on {HOST} is writing to {tmp_path}" in message
    assert str(tmp_path / LOCK_FILE) in message
    assert files(tmp_path) == {LOCK_FILE: lock}
    forks.kill(first)


def test_the_lock_of_a_killed_process_is_stale(tmp_path: Path, forks: Forks) -> None:
    pid = forks.hold_lock_no_more(tmp_path)
    assert str(pid) in (tmp_path / LOCK_FILE).read_text()
    enter(Storage(tmp_path))
    assert files(tmp_path) == {}


def test_the_lock_of_a_killed_process_whose_parent_does_not_care_is_stale(
    tmp_path: Path, forks: Forks
) -> None:
    """A zombie, as in a container whose first process is no init."""
    child = forks.hold_lock(tmp_path)
    os.kill(child.pid, 9)
    while status_of(child) != psutil.STATUS_ZOMBIE:
        time.sleep(0.005)
    try:
        with Storage(tmp_path).only_writer():
            assert f" {os.getpid()} " in (tmp_path / LOCK_FILE).read_text()
    finally:
        forks.wait(child)
    assert files(tmp_path) == {}


def test_the_lock_of_a_process_whose_number_another_one_has_now_is_stale(storage: Storage) -> None:
    """This process has the number, and another one had it 100 seconds before this one began."""
    with storage.only_writer():
        mine = storage.read(LOCK_FILE).decode()
    host, pid, started = mine.split()
    storage.write(LOCK_FILE, f"{host} {pid} {float(started) - 100:.2f}".encode())
    enter(storage)
    assert storage.names() == []


def test_the_lock_of_another_living_process_holds_on_any_storage_until_it_ends(
    storage: Storage, tmp_path: Path, forks: Forks
) -> None:
    """The lock is one that the process wrote, put here byte by byte: memory is not shared."""
    child = forks.hold_lock(tmp_path / "other")
    storage.write(LOCK_FILE, (tmp_path / "other" / LOCK_FILE).read_bytes())
    assert f"process {child.pid} on {HOST}" in refusal(lambda: enter(storage))
    forks.kill(child)
    enter(storage)
    assert storage.names() == []


def test_the_lock_of_another_host_is_refused_with_the_host_and_the_file_to_delete(
    storage: Storage,
) -> None:
    storage.write(LOCK_FILE, f"another-host {os.getpid()} 1.00".encode())
    message = refusal(lambda: enter(storage))
    assert f"process {os.getpid()} on another-host" in message
    assert f"delete {storage.path(LOCK_FILE)}" in message
    storage.remove(LOCK_FILE)
    enter(storage)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"only-a-host", b"host not-a-number 1.0"])
def test_a_lock_that_cannot_be_read_is_refused_with_the_file_to_delete(
    storage: Storage, content: bytes
) -> None:
    storage.write(LOCK_FILE, content)
    if storage.is_local and not content:  # its writer was killed before it could sign
        enter(storage)
        return
    assert storage.path(LOCK_FILE) in refusal(lambda: enter(storage))
    assert storage.read(LOCK_FILE) == content


def test_a_lock_holds_although_the_clock_was_set_behind_it(
    tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's idea of when a process started moves with its clock, as after a sync by NTP."""
    child = forks.hold_lock(tmp_path)
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 60)
    monkeypatch.setattr("psutil.boot_time", lambda: booted + 60)
    try:
        assert f"process {child.pid} on {HOST}" in refusal(lambda: enter(Storage(tmp_path)))
    finally:
        forks.kill(child)


def test_of_two_processes_that_find_a_stale_lock_only_one_becomes_the_writer(
    tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one tries to take the lock over just when this one sees that it is stale."""
    dead = forks.hold_lock_no_more(tmp_path)
    process, refused = psutil.Process, []

    def look(pid: int | None = None) -> psutil.Process:
        if pid == dead and not refused:
            with pytest.raises(AssertionError, match="is writing to"):
                forks.hold_lock(tmp_path)
            refused.append(pid)
        return process(pid)

    monkeypatch.setattr(psutil, "Process", look)
    enter(Storage(tmp_path))
    assert refused == [dead]


def test_a_writer_that_has_just_begun_does_not_disturb_one_that_asks_for_the_lock(
    tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one clears leftovers away while the second one is about to link its lock."""
    child = forks.hold_lock(tmp_path)
    link = os.link

    def cleared_before(*arguments: Any, **options: Any) -> None:
        Storage(tmp_path).remove_leftovers()
        link(*arguments, **options)

    monkeypatch.setattr(os, "link", cleared_before)
    try:
        assert f"process {child.pid} on {HOST}" in refusal(lambda: enter(Storage(tmp_path)))
    finally:
        forks.kill(child)


def test_a_disk_without_hard_links_is_locked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as exFAT, and many that are mounted over a network."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Storage(tmp_path).only_writer():
        assert f"process {os.getpid()} on {HOST}" in refusal(lambda: enter(Storage(tmp_path)))
    assert files(tmp_path) == {}


def test_a_folder_that_is_a_file_cannot_be_locked_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in refusal(lambda: enter(Storage(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "in the way"


# No room -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def undisturbed(
    text: Path, forks: Forks, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "cache"
    done = forks.run(*flags(text, out))
    assert done.code == 0, done
    return files(out)


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


@pytest.mark.parametrize("free_kb", [12, 400, 920])
def test_a_harvest_on_a_full_disk_stops_with_a_valid_cache_and_goes_on_once_there_is_room(
    disk: Path, text: Path, forks: Forks, undisturbed: dict[str, bytes], free_kb: int
) -> None:
    out = disk / "cache"
    ballast = fill(disk, free_kb * 1024)
    assert_no_room(forks.run(*flags(text, out)), out)
    assert_no_room(forks.run(*flags(text, out)), out)  # nothing has changed
    cache = ActivationCache.open(out)
    assert cache.verify() == []
    assert not cache.manifest.complete
    ballast.unlink()
    done = forks.run(*flags(text, out))
    assert done.code == 0, done
    assert files(out) == undisturbed


def test_a_disk_without_room_for_a_single_file_is_told_in_one_line(
    disk: Path, text: Path, forks: Forks, undisturbed: dict[str, bytes]
) -> None:
    out = disk / "cache"
    out.mkdir()
    ballast = fill(disk, 0)
    done = forks.run(*flags(text, out))
    assert done.code == 2, done
    assert re.fullmatch(f"error: .*{out}.*", done.err.removesuffix("\n"))
    assert re.search("no room|No space left", done.err)
    assert files(out) == {}
    ballast.unlink()
    assert forks.run(*flags(text, out)).code == 0
    assert files(out) == undisturbed


def test_a_file_larger_than_the_limit_is_told_as_no_room_and_the_harvest_goes_on_without_it(
    tmp_path: Path, text: Path, forks: Forks, undisturbed: dict[str, bytes]
) -> None:
    """`ulimit -f`: a shard takes 97 kB, the first manifests take less than 20."""
    out = tmp_path / "cache"
    done = forks.run(*flags(text, out), file_limit=50_000)
    assert_no_room(done, out)
    assert list(files(out)) == ["manifest.json"]
    assert ActivationCache.open(out).verify() == []
    assert forks.run(*flags(text, out)).code == 0
    assert files(out) == undisturbed
