"""One writer at a time, on any storage. Other writers are real processes."""

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from forks import (
    Forks,
    files,
    refusal,
    status_of,
)

from activation_cache import InputError
from activation_cache.cache.storage import LOCK_FILE, Storage

HOST = socket.gethostname()


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
