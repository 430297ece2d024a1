"""Small runs, the ways in which one is cut short, and what must not be seen of that afterwards.

Run as a program, this file is a server that forks processes which train; `Trainings` talks to it.
"""

import io
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import forks
import pytest
from forks import REPOSITORY, Done, Forks
from rich.console import Console
from sweeps import SMALL, differences, listed, loaded
from torch import Tensor

import sae.training.checkpoint as checkpoint_module
from activation_cache import LanguageModel
from activation_cache.common.errors import InputError
from sae.commands.exits import run_command
from sae.runs.run import run
from sae.runs.settings import RunSettings
from sae.training.trainer import Trainer

STEPS = 8
"""Of a small run: 512 tokens in batches of 64."""

Disturbance = Callable[[pytest.MonkeyPatch], None]


class Death(BaseException):
    """The process is gone: nobody catches this, and nothing is saved."""


class Maker:
    """Makes settings of small runs below a folder."""

    def __init__(self, folder: Path, model: LanguageModel, dataset: str) -> None:
        self.folder = folder
        self._shared = {**SMALL, "hook_name": (SMALL["hook_name"],), "device": "cpu"}
        self._shared |= {"model": model.name, "dataset": dataset, "init_tokens": 128}

    def __call__(self, name: str = "run", **changes: Any) -> RunSettings:
        return RunSettings.of(**{**self._shared, "out": self.folder / name, **changes})


@contextmanager
def quick(gpt2: LanguageModel) -> Iterator[None]:
    """The model is loaded once, and reports are but a file."""

    def write_report(folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder} is not a run folder: it has no config.json")
        (folder / "report.html").write_text("a report")

    with (
        loaded(gpt2),
        mock.patch.object(import_module("sae.runs.run"), "write_report", write_report),
    ):
        yield


def every(n: int, happens: Callable[[], object], before: Callable[..., Any]) -> Callable[..., Any]:
    """The function, in front of whose n-th call something happens."""
    n_calls = 0

    def function(*arguments: Any, **options: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == n:
            happens()
        return before(*arguments, **options)

    return function


def die() -> None:
    raise Death


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def in_step(n: int, happens: Callable[[], object] = die) -> Disturbance:
    """In the n-th step of a sitting, once the optimiser has been at work."""

    def disturb(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Trainer, "record_step", every(n, happens, Trainer.record_step))

    return disturb


def in_checkpoint(n: int, function: str = "save_file", happens: Any = die) -> Disturbance:
    """In the midst of writing the n-th checkpoint."""

    def disturb(patch: pytest.MonkeyPatch) -> None:
        before = getattr(checkpoint_module, function)
        patch.setattr(checkpoint_module, function, every(n, happens, before))

    return disturb


def in_call_of(place: str, n: int = 1, happens: Callable[[], object] = die) -> Disturbance:
    """In front of the n-th call of a function, named as `module:name` or `module:class.name`."""

    def disturb(patch: pytest.MonkeyPatch) -> None:
        module, names = place.split(":")
        owner, name = _owner(module, names)
        patch.setattr(owner, name, every(n, happens, getattr(owner, name)))

    return disturb


@contextmanager
def bad_steps(*steps: int, site: str | None = None) -> Iterator[None]:
    """A NaN in the batches of these steps, counted from 0; of one site alone if that is named."""
    train = import_module("sae.training.train")  # which the function of that name hides
    before = train._rows_for

    def rows_for(trainer: Trainer, batch: Any) -> Tensor:
        x = before(trainer, batch).clone()
        if trainer.n_steps in steps and site in (None, trainer.sae.hook_name):
            x[3, 2] = math.nan
        return x

    with mock.patch.object(train, "_rows_for", rows_for):
        yield


def _owner(module: str, names: str) -> tuple[Any, str]:
    """What holds a function, and its name there."""
    *owners, name = names.split(".")
    return reduce(getattr, owners, import_module(module)), name  # a function may hide the module


def sit(settings: RunSettings, disturb: Disturbance, *, resume: bool = True) -> bool:
    """One sitting of a run; whether it was cut short."""
    return cut_short(lambda: run(settings, resume=resume), disturb)


def cut_short(act: Callable[[], object], disturb: Disturbance) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        disturb(patch)
        try:
            act()
        except (Death, KeyboardInterrupt):
            return True
    return False


def run_disturbed(settings: RunSettings, disturbances: Sequence[Disturbance]) -> None:
    """Run in as many sittings as there are disturbances, and in one more to the end."""
    shutil.rmtree(settings.out, ignore_errors=True)
    for number, disturb in enumerate(disturbances):
        sit(settings, disturb, resume=number > 0)
    run(settings, resume=True)


def assert_same(run_folder: Path, other: Path) -> None:
    assert not differences(run_folder, other)
    assert (run_folder / "report.html").is_file()
    assert not leftovers(run_folder)


def leftovers(folder: Path) -> list[str]:
    """What a run must not leave behind."""
    ends = (".tmp", "writer.lock")
    return [name for name in listed(folder) if name.endswith(ends)]


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def state_of(folder: Path) -> object:
    """What must be the same where nothing was touched."""
    return times(folder), listed(folder)


def refused(act: Callable[[], object]) -> str:
    """The one line by which something is refused."""
    with pytest.raises(InputError) as raised:
        act()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def checkpoints_in(out: Path) -> list[Path]:
    """The oldest first."""
    return sorted(path for path in (out / "checkpoints").glob("*") if path.name.isdigit())


class told(Console):
    """A console that remembers its lines."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), width=10_000)

    def lines(self) -> list[str]:
        assert isinstance(self.file, io.StringIO)
        return self.file.getvalue().splitlines()


class Trainings(Forks):
    """Starts `scripts/train.py` as processes of their own, without 5 s of imports for each."""

    def __init__(self, folder: Path) -> None:
        paths = os.pathsep.join(str(REPOSITORY / name) for name in ("tests", "scripts", "."))
        server = partial(subprocess.Popen, [sys.executable, __file__])

        def popen(_command: Sequence[str], *, env: Mapping[str, str], **pipes: Any) -> Any:
            return server(env={**env, "PYTHONPATH": paths}, **pipes)

        with mock.patch("forks.subprocess.Popen", popen):
            super().__init__(folder)

    def train(self, *arguments: object, **moments: Mapping[int, str]) -> Done:
        """Run the script; in front of the n-th call of a function of `PLACES` it gets a signal."""
        argv = [str(argument) for argument in arguments]
        return self.wait(self._start(job="harvest", argv=argv, moments=moments))


PLACES = {
    "step": "sae.training.trainer:Trainer.record_step",
    "checkpoint": "sae.training.checkpoint:save_file",
    "fsync": "os:fsync",
    "replace": "os:replace",
    "rename": "os:rename",
    "evaluate": "sae.runs.inputs:evaluate_on_held_out_text",
}


def _train(request: dict[str, Any]) -> int:
    """What a process does that the server has forked."""
    from sae.commands import train

    for place, signals in request["moments"].items():
        owner, name = _owner(*PLACES[place].split(":"))
        setattr(owner, name, _signalled(getattr(owner, name), signals))
    try:
        run_command(train.main, request["argv"])
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    return 0


def _signalled(function: Callable[..., Any], signals: Mapping[str, str]) -> Callable[..., Any]:
    n_calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if str(n_calls) in signals:
            os.kill(os.getpid(), signal.Signals[signals[str(n_calls)]])
        return function(*arguments, **options)

    return call


if __name__ == "__main__":
    forks._run_script = _train
    forks._serve()
