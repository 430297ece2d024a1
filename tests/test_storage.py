"""Files that are whole or not there, on any storage."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from forks import (
    files,
    refusal,
)

from activation_cache import InputError
from activation_cache.cache.storage import TEMPORARY, Storage

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
