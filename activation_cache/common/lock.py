"""Locks of folders: one process writes, and the refusal of another names it."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from activation_cache.common.errors import InputError

LOCK_FILE = "writer.lock"


def signature() -> str:
    """The content of a lock file: the host, the process, and when it was started."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes out; `InputError` naming the one that is in it.

    The system's own lock tells, which ends with its process. On a disk that other machines share,
    the lock file says which process of which host wrote it: on the same host it is stale once that
    process is gone; of another host nobody here can say. A folder that was made and is left empty
    goes again.
    """
    path = folder / LOCK_FILE
    made = [parent for parent in path.parents if not os.path.lexists(parent)]
    with _refused(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(path)
    try:
        if found := os.pread(descriptor, 1000, 0):  # nothing: its writer was killed at once
            refuse_if_alive(found, str(folder), str(path))
        try:
            with _refused(folder):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, signature().encode(), 0)
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is ours
    finally:
        os.close(descriptor)
        for parent in made:
            with suppress(OSError):  # it holds something, or is gone
                parent.rmdir()


def refuse_if_alive(content: bytes, folder: str, lock: str, *, is_held: bool = False) -> None:
    """`InputError` unless the process that signed a lock is one of this host that is gone."""
    host, pid, started = [*content.decode(errors="replace").split(), "", "", ""][:3]
    is_ours = host == socket.gethostname() and pid.isdigit()
    if is_held or not is_ours or _is_alive(int(pid), started):
        who = f"process {pid or '?'} on {host or 'an unknown host'}"
        raise InputError(f"{who} is writing to {folder}: wait for it; if it is gone, delete {lock}")


@contextmanager
def _refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write in {folder}: {error.strerror}; name another folder with --out"
        ) from error


def _open_locked(path: Path) -> int:
    """The lock file with the system's lock on it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            content = os.pread(descriptor, 1000, 0)
            os.close(descriptor)
            refuse_if_alive(content, str(path.parent), str(path), is_held=True)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # its last owner deleted it meanwhile


def _is_alive(pid: int, started: str) -> bool:
    """Whether this very process runs; another that got its number later is not it."""
    try:
        process = psutil.Process(pid)
        is_the_same = f"{process.create_time():.2f}" == started
        return is_the_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
