"""Runs that are killed again and again, at moments that nobody chose."""

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.runs import ARCHITECTURES, ENDS_WITHIN_S, Job, Outcome, is_one_line, wait_until

KILLS_OF_A_RUN = 4
ANY_MOMENT = 0.25
"""Share of the kills at any moment of a process; the others are in its training or behind it."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed: what it left, and how long its parts took."""

    result: dict[str, bytes]
    life_s: float
    training_s: float
    """From its first row to its end."""


def undisturbed(job: Job) -> Undisturbed:
    began = time.monotonic()
    process = job.start()
    if not wait_until(lambda: job.log_bytes() > 0, process):
        _, told = process.communicate()
        raise RuntimeError(f"{job.out} ended with {process.returncode}: {told.strip()}")
    training = time.monotonic()
    process.communicate(timeout=ENDS_WITHIN_S)
    ended = time.monotonic()
    return Undisturbed(job.result(), ended - began, ended - training)


def kill(text: Path, out: Path, n_kills: int, seed: int) -> Iterator[Outcome]:
    """An outcome for each kill; the architectures have equal shares, a run up to four."""
    draw = random.Random(seed)
    for number, name in enumerate(ARCHITECTURES):
        whole = undisturbed(Job(name, text, out / f"{name}-whole"))
        left = len(range(number, n_kills, len(ARCHITECTURES)))
        while left:
            job = Job(name, text, out / f"{name}-{left}")
            kills = min(left, KILLS_OF_A_RUN)
            for _ in range(kills):
                _kill_once(job, whole, draw)
            job.finish()
            left -= kills
            for _ in range(kills):
                yield job.outcome(f"kill -9, {name}", False, whole.result)


def _kill_once(job: Job, whole: Undisturbed, draw: random.Random) -> None:
    process = job.start()
    before = job.log_bytes()
    if draw.random() < ANY_MOMENT:
        time.sleep(draw.uniform(0, whole.life_s))
    else:
        wait_until(lambda: job.log_bytes() != before, process)
        time.sleep(draw.uniform(0, whole.training_s))
    process.kill()
    process.communicate()


def interrupt(text: Path, out: Path, n_tries: int, seed: int) -> Iterator[Outcome]:
    """Runs that are asked to end by SIGINT or SIGTERM in their training, and resumed."""
    draw = random.Random(seed)
    name = "topk"
    whole = undisturbed(Job(name, text, out / f"{name}-to-interrupt"))
    for i in range(n_tries):
        signum = (signal.SIGINT, signal.SIGTERM)[i % 2]
        job = Job(name, text, out / f"{signum.name}-{i}")
        process = job.start()
        wait_until(lambda: job.log_bytes() > 0, process)  # noqa: B023
        time.sleep(draw.uniform(0, whole.training_s / 2))
        process.send_signal(signum)
        _, told = process.communicate(timeout=ENDS_WITHIN_S)
        ended_before = process.returncode == 0
        clean = ended_before or (process.returncode == 128 + signum and is_one_line(told))
        job.finish()
        yield job.outcome(signum.name, clean, whole.result)
