"""Real processes that harvest, forked from one that has imported everything: no 5 s start for each.

Run as a program, this file is the server that forks; `Forks` talks to it.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil

REPOSITORY = Path(__file__).parents[1]
HARVEST = REPOSITORY / "scripts" / "harvest.py"


class Done(NamedTuple):
    code: int
    """Of the shell's kind; minus the signal where one killed it."""
    out: str
    err: str


class Child(NamedTuple):
    pid: int
    out: Path
    err: Path


class Forks:
    """Starts `scripts/harvest.py` and holders of locks as processes of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._n_started = 0
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "150"},
        )

    def close(self) -> None:
        with self._server:
            pass  # its input ends, and so does it

    def harvest(
        self,
        *arguments: object,
        env: dict[str, str] | None = None,
        file_limit: int | None = None,
        kill_at: int | None = None,
        stop_at: int | None = None,
        half_written: bool = False,
        moments: Path | None = None,
    ) -> Child:
        """Start the script. `kill_at` has it kill itself at that moment, see `_count_moments`.

        With `stop_at` it halts there, and this returns once it has.
        """
        child = self._start(
            job="harvest",
            argv=[str(argument) for argument in arguments],
            env=env or {},
            file_limit=file_limit,
            kill_at=stop_at or kill_at,
            how=signal.SIGSTOP if stop_at else signal.SIGKILL,
            half_written=half_written,
            moments=moments and str(moments),
        )
        if stop_at:
            self.wait_until(child, lambda: status_of(child) == psutil.STATUS_STOPPED)
        return child

    def run(self, *arguments: object, **options: Any) -> Done:
        return self.wait(self.harvest(*arguments, **options))

    def hold_lock(self, url: str | Path) -> Child:
        """A process that is the only writer there until it is killed. Waits until it is."""
        child = self._start(job="hold", url=str(url))
        self.wait_until(child, lambda: "held" in child.out.read_text())
        return child

    def wait_until(self, child: Child, holds: Callable[[], bool]) -> None:
        """Wait for something that a child does; fail if it ends before."""
        while not holds():
            assert status_of(child) != psutil.STATUS_ZOMBIE, self.wait(child)
            time.sleep(0.005)

    def hold_lock_no_more(self, url: str | Path) -> int:
        """The number of a process that was killed as the only writer there."""
        child = self.hold_lock(url)
        self.kill(child)
        return child.pid

    def wait(self, child: Child) -> Done:
        """Wait for its end; one that hangs is killed after two minutes, which its code shows."""
        for _ in range(24_000):
            if status_of(child) == psutil.STATUS_ZOMBIE:
                break
            time.sleep(0.005)
        else:
            os.kill(child.pid, signal.SIGKILL)
        code = self._ask(job="wait", pid=child.pid)["code"]
        return Done(code, child.out.read_text(), child.err.read_text())

    def kill(self, child: Child, number: signal.Signals = signal.SIGKILL) -> Done:
        """Send a signal, let the child go on if it was stopped, and wait for its end."""
        os.kill(child.pid, number)
        os.kill(child.pid, signal.SIGCONT)
        return self.wait(child)

    def _start(self, **request: Any) -> Child:
        self._n_started += 1
        out, err = (self._folder / f"{self._n_started}.{name}" for name in ("out", "err"))
        return Child(self._ask(**request, out=str(out), err=str(err))["pid"], out, err)

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


@cache
def shared_forks() -> Forks:
    """One server for all tests that run together."""
    folder = tempfile.TemporaryDirectory(prefix="forks-")
    forks = Forks(Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(forks.close)  # before the folder
    return forks


def status_of(child: Child) -> str:
    return psutil.Process(child.pid).status()


# What they harvest, and what is there then -------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    found = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.is_file()}


def flip(path: Path, offset: int, bit: int = 4) -> None:
    """Change one bit of a file; the same again changes it back.

    Another file takes its name, as after a download: readers that have the old one open keep it.
    """
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.unlink()
    path.write_bytes(data)


def refusal(act: Callable[[], object]) -> str:
    """The message with which bad input is refused: always one line."""
    from activation_cache import InputError

    try:
        act()
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    raise AssertionError("was not refused")


def write_text(path: Path) -> Path:
    """250 kB in about 120 documents, six of them held out."""
    path.write_text("\n\n".join(f"Paragraph {i} is about the number {i * i}." for i in range(6000)))
    return path


def flags(text: Path, out: str | Path, *others: object) -> list[str]:
    """Ten shards of training text and two held out, two forward passes each; 0.2 s in all."""
    sizes = "--context-size 32 --forward-tokens 128 --shard-tokens 200 --n-tokens 2000"
    given = ["--dataset", text, "--out", out, "--device", "cpu", "--held-out-tokens", 300, *others]
    return [*sizes.split(), *map(str, given)]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[str | None]:
    """Mount a RAM disk of that size; yields why not where that is impossible."""
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        yield "there is no mount here"
        return
    command = [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield f"mounting a RAM disk needs root: {done.stderr.strip()}"
        return
    try:
        yield None
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# The server --------------------------------------------------------------------------------------


def _serve() -> None:
    import datasets  # noqa: F401
    import torch

    from activation_cache import load_model
    from sae.commands import harvest  # noqa: F401

    torch.set_num_threads(1)  # OpenMP's threads would not survive the fork
    load_model("tiny", device="cpu")  # imports what it needs
    for line in sys.stdin:
        request = json.loads(line)
        if request["job"] == "wait":
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])}
        else:
            for name in ("out", "err"):
                Path(request[name]).touch()
            pid = os.fork()
            if pid == 0:
                _child(request)
            answer = {"pid": pid}
        _say(json.dumps(answer))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _child(request: dict[str, Any]) -> None:
    """Never returns."""
    code = 1
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_APPEND), number)
        code = {"harvest": _run_script, "hold": _hold}[request["job"]](request)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _hold(request: dict[str, Any]) -> int:
    from activation_cache.cache.storage import Storage

    with Storage(request["url"]).only_writer():
        _say("held")
        signal.pause()
    return 0


def _run_script(request: dict[str, Any]) -> int:
    import resource

    from sae.commands import harvest
    from sae.commands.exits import run_command

    os.environ.update(request["env"])
    if request["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
    moments = _count_moments(request)
    code: Any = 0
    try:
        run_command(harvest.main, request["argv"])
    except SystemExit as exit_:
        code = exit_.code
    if request["moments"]:
        Path(request["moments"]).write_text(str(moments[0]))
    return code if isinstance(code, int) else 1


def _count_moments(request: dict[str, Any]) -> list[int]:
    """Count the moments before every forward pass, fsync, rename, link and removal of a file.

    At moment `kill_at` the process kills or stops itself, as `kill -9` would. `half_written` leaves
    half of a file that was about to be synced, as if that had come in the midst of writing it.
    """
    from activation_cache.stream.source import ActivationSource

    n_moments = [0]

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            n_moments[0] += 1
            if n_moments[0] == request["kill_at"]:
                if request["half_written"] and function is fsync and os.path.isfile(arguments[0]):  # noqa: PTH113
                    file = f"/proc/self/fd/{arguments[0]}"  # which was opened for reading
                    os.truncate(file, os.fstat(arguments[0]).st_size // 2)
                os.kill(os.getpid(), request["how"])
            return function(*arguments, **options)

        return call

    fsync = os.fsync
    for name in ("fsync", "replace", "link", "remove"):
        setattr(os, name, counted(getattr(os, name)))
    ActivationSource.rows = counted(ActivationSource.rows)  # type: ignore[method-assign]
    return n_moments


if __name__ == "__main__":
    _serve()
