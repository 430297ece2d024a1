"""A folder on disk or in object storage, through fsspec, whose files are whole or not there."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from activation_cache.common.errors import InputError
from activation_cache.common.files import TEMPORARY, write_file
from activation_cache.common.lock import LOCK_FILE, folder_lock, refuse_if_alive, signature

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Storage:
    """The files below a path or an fsspec URL such as `s3://bucket/folder`.

    Files of object storage are read through copies on the local disk, under `read_cache`.
    """

    def __init__(self, url: str | Path, *, read_cache: Path | None = None) -> None:
        self.url = str(url)
        if not self.url or "\0" in self.url:
            raise InputError(f"{self.url!r} is no folder: name one")
        self._fs: Any
        try:
            if isinstance(url, Path):  # whatever its name looks like
                self._fs, self._root = LocalFileSystem(), str(url.absolute())
            else:
                self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise InputError(f"cannot use {self.url}: {error}; name a folder") from error
        self.is_local = isinstance(self._fs, LocalFileSystem)
        self.read_cache = read_cache

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _refused(self, verb: str, name: str, *expected: type[Exception]) -> Iterator[None]:
        """Other failures as an `InputError`: every kind of storage raises its own."""
        try:
            yield
        except (InputError, *expected):
            raise
        except Exception as error:
            message = f"cannot {verb} {name} in {self.url}: {error}"
            if getattr(error, "errno", None) in NO_ROOM:
                message = f"no room in {self.url} for {name}: make room, run the same command again"
            raise InputError(message) from error

    def exists(self, name: str) -> bool:
        with self._refused("read", name):
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
        with self._refused("read", name, FileNotFoundError, NotADirectoryError):
            return self._fs.cat_file(self.path(name))

    def write(self, name: str, data: bytes) -> None:
        """Put a file there at once: whoever looks finds the old one or the new one, whole."""
        with self._refused("write", name):
            if self.is_local:
                write_file(Path(self.path(name)), data)
            else:
                self._fs.pipe_file(self.path(name), data)

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
            write_file(copy, self.read(name))
        return copy

    @contextmanager
    def only_writer(self) -> Iterator[None]:
        """Keep other writers out; `InputError` naming the one that is there, if it is alive.

        On a disk this is `folder_lock`. In object storage, the lock file alone says which process
        of which host wrote it.
        """
        with folder_lock(Path(self._root)) if self.is_local else self._locked_object():
            yield

    @contextmanager
    def _locked_object(self) -> Iterator[None]:
        path = self.path(LOCK_FILE)
        while True:
            try:
                with self._refused("write", LOCK_FILE, FileExistsError):
                    self._fs.pipe_file(path, signature().encode(), mode="create")
                break
            except FileExistsError:
                with suppress(FileNotFoundError):
                    refuse_if_alive(self.read(LOCK_FILE), self.url, path)
                    self.remove(LOCK_FILE)
        try:
            yield
        finally:
            self.remove(LOCK_FILE)
