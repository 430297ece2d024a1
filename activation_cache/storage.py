"""A folder on disk or in object storage, through fsspec, whose files are whole or not there."""

import errno
import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import psutil
from fsspec.implementations.local import LocalFileSystem

from activation_cache.errors import InputError

LOCK_FILE = "writer.lock"
TEMPORARY = ".tmp"
"""Ends the name of a file that is being written; one that is left over means nothing."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Storage:
    """The files below a path or an fsspec URL such as `s3://bucket/folder`.

    Files of object storage are read through copies on the local disk, under `read_cache`.
    """

    def __init__(self, url: str | Path, *, read_cache: Path | None = None) -> None:
        self.url = str(url)
        if not self.url or "\0" in self.url:
            raise InputError(f"{self.url!r} is no folder: name one, or give its fsspec URL")
        self._fs: Any
        try:
            if isinstance(url, Path):  # whatever its name looks like
                self._fs, self._root = LocalFileSystem(), str(url.absolute())
            else:
                self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"cannot use {self.url}: {error}; give a folder, or the URL of one"
            ) from error
        self.is_local = isinstance(self._fs, LocalFileSystem)
        self.read_cache = read_cache

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def exists(self, name: str) -> bool:
        with self._reading(name):
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self.path(name)))

    def names(self) -> list[str]:
        """Every file below the folder, by its path relative to it."""
        self._fs.invalidate_cache()
        with suppress(FileNotFoundError):
            found = (self._fs._strip_protocol(path) for path in self._fs.find(self._root))
            return sorted(str(path)[len(self._root) :].lstrip("/") for path in found)
        return []

    def read(self, name: str) -> bytes:
        """The content of a file; `FileNotFoundError` where it is not there."""
        with self._reading(name):
            return self._fs.cat_file(self.path(name))

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, InputError):
            raise
        except Exception as error:  # every kind of storage raises its own
            raise InputError(f"cannot read {name} in {self.url}: {error}") from error

    def write(self, name: str, data: bytes) -> None:
        """Put a file there at once: whoever looks finds the old one or the new one, whole."""
        try:
            if self.is_local:
                _replace_file(Path(self.path(name)), data)
            else:
                self._fs.pipe_file(self.path(name), data)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise InputError(
                    f"no room in {self.url} for {name} ({len(data) / 1e6:.1f} MB): what is there "
                    f"is valid; make room and run the same command again"
                ) from error
            raise InputError(f"cannot write {name} in {self.url}: {error}") from error
        except Exception as error:  # every kind of storage raises its own
            raise InputError(f"cannot write {name} in {self.url}: {error}") from error

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(self.path(name))

    def remove_leftovers(self) -> None:
        """Delete what a killed writer had not finished."""
        for name in self.names():
            if name.endswith(TEMPORARY):
                self.remove(name)

    def local_file(self, name: str, version: str, *, afresh: bool = False) -> Path:
        """A file on the local disk with the content of `name`, downloaded where it has to be.

        `version` tells contents apart, so that a copy of another one is never served; `afresh`
        downloads even where there is a copy.
        """
        if self.is_local:
            return Path(self.path(name))
        folder = self.read_cache or Path(tempfile.gettempdir()) / "featureloom-read-cache"
        copy = folder / f"{version}-{name.replace('/', '-')}"
        if afresh or not copy.exists():
            _replace_file(copy, self.read(name))
        return copy

    @contextmanager
    def only_writer(self) -> Iterator[None]:
        """Keep other writers out; `InputError` naming the one that is there, if it is alive.

        On a disk the system's own lock tells, which ends with its process. Everywhere, the lock
        file says which process of which host wrote it: on the same host it is stale once that
        process is gone; of another host nobody here can say.
        """
        mine = f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"
        with self._locked_file(mine) if self.is_local else self._locked_object(mine):
            yield

    @contextmanager
    def _locked_file(self, mine: str) -> Iterator[None]:
        path = Path(self.path(LOCK_FILE))
        made = [folder for folder in path.parents if not os.path.lexists(folder)]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = self._open_locked(path)
        except OSError as error:
            raise InputError(
                f"cannot write in {self.url}: {error.strerror}; name another folder with --out"
            ) from error
        try:
            if found := os.pread(descriptor, 1000, 0):  # nothing: its writer was killed at once
                self._refuse_if_alive(found.decode(errors="replace"))
            try:
                self._sign(descriptor, mine)
                yield
            finally:
                path.unlink(missing_ok=True)  # while it is ours
        finally:
            os.close(descriptor)
            with suppress(OSError):  # as soon as one holds something
                for folder in made:
                    folder.rmdir()

    def _sign(self, descriptor: int, mine: str) -> None:
        try:
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, mine.encode(), 0)
        except OSError as error:
            raise InputError(f"cannot write in {self.url}: {error}") from error

    def _open_locked(self, path: Path) -> int:
        """The lock file with the system's lock on it."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                content = os.pread(descriptor, 1000, 0).decode(errors="replace")
                os.close(descriptor)
                raise self._refusal(content) from None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            os.close(descriptor)  # its last owner deleted it meanwhile

    @contextmanager
    def _locked_object(self, mine: str) -> Iterator[None]:
        while not self._create_object(mine):
            with suppress(FileNotFoundError):
                self._refuse_if_alive(self.read(LOCK_FILE).decode(errors="replace"))
                self.remove(LOCK_FILE)
        try:
            yield
        finally:
            self.remove(LOCK_FILE)

    def _create_object(self, content: str) -> bool:
        try:
            self._fs.pipe_file(self.path(LOCK_FILE), content.encode(), mode="create")
        except FileExistsError:
            return False
        except Exception as error:  # every kind of storage raises its own
            raise InputError(f"cannot write in {self.url}: {error}") from error
        return True

    def _refuse_if_alive(self, content: str) -> None:
        host, pid, started = [*content.split(), "", "", ""][:3]
        if host == socket.gethostname() and pid.isdigit() and not _is_alive(int(pid), started):
            return
        raise self._refusal(content)

    def _refusal(self, content: str) -> InputError:
        host, pid = [*content.split(), "an unknown host", "?"][:2]
        return InputError(
            f"process {pid} on {host} is writing to {self.url}: wait for it; if it is gone, delete "
            f"{self.path(LOCK_FILE)}"
        )


def _is_alive(pid: int, started: str) -> bool:
    """Whether this very process runs; another that got its number later is not it."""
    try:
        process = psutil.Process(pid)
        is_the_same = f"{process.create_time():.2f}" == started
        return is_the_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _replace_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f"{path.name}.{writer}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name itself
    finally:
        os.close(folder)
