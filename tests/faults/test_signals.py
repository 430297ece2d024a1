"""Signals end a run with a checkpoint, and a kill at any moment costs no more than some time."""

import random
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from caches import write_texts
from forks import Done
from resuming import (
    Maker,
    Trainings,
    assert_same,
    checkpoints_in,
    ctrl_c,
    every,
    in_call_of,
    in_step,
    refused,
    sit,
)
from rich.live import Live
from sweeps import listed

import sae
from sae.runs.run import run
from sae.runs.signals import Interrupted, deferred
from sae.training.checkpoint import read_state

SIZES = (
    "--n-tokens 2048 --batch-tokens 256 --buffer-tokens 1024 --context-size 32 --eval-tokens 256 "
    "--d-sae 32 --k 4 --log-every 2 --checkpoint-tokens 512 --wandb off --device cpu"
)
"""Eight steps, and checkpoints behind every second one."""


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    trainings = Trainings(tmp_path_factory.mktemp("trainings"))
    yield trainings
    trainings.close()


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    text = write_texts(tmp_path_factory.mktemp("text") / "text.jsonl")
    return [*SIZES.split(), "--dataset", text, "--stop-signal", "USR1"]


@pytest.fixture(scope="module")
def undisturbed(
    trainings: Trainings, flags: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = trainings.train(*flags, "--out", out)
    assert done.code == 0, done
    return out


def assert_goes_on(trainings: Trainings, flags: list[str], out: Path, undisturbed: Path) -> None:
    """Resumed, the run ends with the files of the undisturbed one."""
    done = trainings.train(*flags, "--resume", "--out", out)
    assert done.code == 0, done
    assert (out / "report.html").is_file()
    (undisturbed / "report.html").touch()
    assert_same(out, undisturbed)


def assert_told(done: Done, code: int, pattern: str) -> None:
    assert done.code == code, done
    assert re.fullmatch(f"interrupted {pattern}--resume.*\n", done.err), done


# Asked to end ------------------------------------------------------------------------------------


def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint_and_one_line(
    trainings: Trainings, flags: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = trainings.train(*flags, "--out", out, step={3: "SIGTERM"})
    where = f"{out}/checkpoints/{768:012}"
    assert_told(done, 143, f"after 768 tokens, saved in {where}: resume with ")
    assert read_state(Path(where))["training"]["trainers"][0]["n_steps"] == 3
    assert sae.load(out).d_sae == sae.load(where).d_sae == 32
    assert not (out / "eval.json").exists() and not (out / "writer.lock").exists()
    assert_goes_on(trainings, flags, out, undisturbed)


def test_before_the_training_a_signal_ends_it_too(make: Maker, finished: Path) -> None:
    settings = make()
    assert sit(settings, in_call_of("sae.runs.inputs:ModelInputs.stream", 1, ctrl_c), resume=False)
    run(settings, resume=True)
    assert_same(settings.out, finished)


def test_a_second_signal_ends_it_at_once_even_where_a_checkpoint_is_being_written(
    trainings: Trainings, flags: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = trainings.train(*flags, "--out", out, step={5: "SIGTERM"}, checkpoint={3: "SIGINT"})
    assert done.code == 130, done
    assert done.err == ""
    assert [path.name for path in checkpoints_in(out)] == [f"{512:012}", f"{1024:012}"]
    assert all(read_state(path) for path in checkpoints_in(out))
    assert_goes_on(trainings, flags, out, undisturbed)


# Killed ------------------------------------------------------------------------------------------

MOMENTS = {"step": 8, "checkpoint": 5, "fsync": 40, "replace": 12, "rename": 4, "evaluate": 1}
"""How often an undisturbed run comes past these places, about."""


def kill(
    trainings: Trainings, flags: list[str], out: Path, draw: random.Random, n_kills: int
) -> None:
    for _ in range(n_kills):
        place = draw.choice([*MOMENTS])
        moment: Any = {place: {draw.randint(1, MOMENTS[place]): "SIGKILL"}}
        done = trainings.train(*flags, "--resume", "--out", out, **moment)
        assert done.code in (0, -9), done


def test_a_run_that_is_killed_goes_on_to_the_same_files(
    trainings: Trainings, flags: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    kill(trainings, flags, tmp_path / "run", random.Random(0), n_kills=1)
    assert_goes_on(trainings, flags, tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 30))
def test_a_run_that_is_killed_goes_on_to_the_same_files_at_more_moments(
    trainings: Trainings, flags: list[str], undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    kill(trainings, flags, tmp_path / "run", draw, n_kills=draw.randint(1, 5))
    assert_goes_on(trainings, flags, tmp_path / "run", undisturbed)


# In a program of one's own -----------------------------------------------------------------------


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in STOPPING]


def test_the_handlers_of_the_program_are_as_they_were_afterwards(make: Maker) -> None:
    before = handlers()
    settings = make(stop_signal="USR1")
    with pytest.raises(Interrupted) as raised, pytest.MonkeyPatch.context() as patch:
        in_step(3, lambda: signal.raise_signal(signal.SIGUSR1))(patch)
        run(settings)
    assert raised.value.signum == signal.SIGUSR1 and handlers() == before
    run(settings, resume=True)
    assert handlers() == before


def test_handlers_of_a_program_that_embeds_python_stay_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    getsignal, before = signal.getsignal, handlers()
    monkeypatch.setattr(signal, "getsignal", lambda _: None)  # what Python says of theirs
    with deferred("USR1"):
        assert [getsignal(number) for number in STOPPING] == before


def test_a_signal_between_the_training_and_the_evaluation_is_not_lost(make: Maker) -> None:
    def disturb(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Live, "stop", every(1, ctrl_c, Live.stop))

    settings = make()
    assert sit(settings, disturb, resume=False)
    assert not (settings.out / "eval.json").exists()


def test_a_signal_that_comes_while_a_checkpoint_is_written_waits_for_no_other_step(
    make: Maker,
) -> None:
    settings = make(checkpoint_tokens=128, keep_best=True)
    with (
        pytest.raises(Interrupted, match="after 128 tokens"),
        pytest.MonkeyPatch.context() as patch,
    ):
        in_call_of("sae.runs.inputs:evaluate_on_held_out_text", 1, ctrl_c)(patch)
        run(settings)
    assert [path.name for path in checkpoints_in(settings.out)] == [f"{128:012}"]


def test_outside_the_main_thread_a_run_ends_as_any_other(make: Maker) -> None:
    thread = threading.Thread(target=run, args=(make("thread"),))
    thread.start()
    thread.join()
    run(make())
    assert_same(make("thread").out, make().out)


@pytest.mark.parametrize("name", ["KILL", "usr1", "SIG_DFL"])
def test_what_is_no_signal_to_wait_for_is_refused(make: Maker, name: str) -> None:
    assert f"unknown stop_signal {name!r}" in refused(lambda: make(stop_signal=name))
    assert not listed(make.folder)
