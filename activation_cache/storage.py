"""A folder on disk or in object storage, through fsspec, whose files are whole or not there."""

import errno
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise InputError(f"cannot use {self.url}: {error}") from error
        self.is_local = isinstance(self._fs, LocalFileSystem)
        self.read_cache = read_cache

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def exists(self, name: str) -> bool:
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
        return self._fs.cat_file(self.path(name))

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

        A lock says which process of which host wrote it. On the same host it is stale once that
        process is gone; of another host nobody here can say.
        """
        mine = f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"
        while not self._create_lock(mine):
            with suppress(FileNotFoundError):
                self._refuse_if_alive(self.read(LOCK_FILE).decode(errors="replace"))
                self.remove(LOCK_FILE)
        try:
            yield
        finally:
            self.remove(LOCK_FILE)

    def _create_lock(self, content: str) -> bool:
        if self.is_local:
            lock = Path(self.path(LOCK_FILE))
            try:
                return _link_file(lock, content)
            except OSError as error:
                raise InputError(f"cannot write in {self.url}: {error}") from error
        with suppress(FileExistsError):
            self._fs.pipe_file(self.path(LOCK_FILE), content.encode(), mode="create")
            return True
        return False

    def _refuse_if_alive(self, content: str) -> None:
        host, pid, started = [*content.split(), "", "", ""][:3]
        if host == socket.gethostname() and pid.isdigit() and not _is_alive(int(pid), started):
            return
        raise InputError(
            f"process {pid} on {host} is writing to {self.url}: wait for it; if it is gone, delete "
            f"{self.path(LOCK_FILE)}"
        )


def _link_file(path: Path, content: str) -> bool:
    """Make a file that is not there yet; false where it is. Nobody ever finds it empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=path.name, suffix=TEMPORARY
    ) as written:
        written.write(content)
        written.flush()
        with suppress(FileExistsError):
            os.link(written.name, path)
            return True
    return False


def _is_alive(pid: int, started: str) -> bool:
    """Whether this very process runs; another that got its number later is not it."""
    try:
        return f"{psutil.Process(pid).create_time():.2f}" == started
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
