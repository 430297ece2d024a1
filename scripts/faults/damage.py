"""Disks that fill up, files that change, folders that vanish, and a run that is started twice."""

import random
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.kills import Undisturbed, undisturbed
from faults.runs import ENDS_WITHIN_S, Job, Outcome, is_one_line, wait_until

LARGEST_FILE = 1_000_000
"""Bytes that a file may have on the disk that is full: less than a checkpoint."""
Fault = Callable[[Job, random.Random], bool]
"""Disturbs a run; says whether it stopped as it should, if it did."""


def _run_until(job: Job, n_checkpoints: int) -> None:
    """Kill a run once it has written so many checkpoints."""
    process = job.start()
    wait_until(lambda: len(job.checkpoints()) >= n_checkpoints, process)
    process.kill()
    process.communicate()


def _flip_a_byte(job: Job, draw: random.Random) -> bool:
    _run_until(job, 2)
    path = draw.choice([p for p in job.checkpoints()[-1].rglob("*") if p.is_file()])
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return False


def _truncate(job: Job, draw: random.Random) -> bool:
    _run_until(job, 2)
    path = draw.choice([p for p in job.checkpoints()[-1].rglob("*") if p.is_file()])
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
    return False


def _lose_all_checkpoints(job: Job, _draw: random.Random) -> bool:
    _run_until(job, 2)
    shutil.rmtree(job.out / "checkpoints")
    return False


def _lose_the_log(job: Job, draw: random.Random) -> bool:
    """A log that is shorter than the checkpoint says: a resumed run must not hide the gap."""
    _run_until(job, 2)
    path = job.out / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[: draw.randrange(200)])
    process = job.start()
    _, told = process.communicate(timeout=ENDS_WITHIN_S)
    shutil.rmtree(job.out)
    return process.returncode == 2 and is_one_line(told)


def _fill_the_disk(job: Job, _draw: random.Random) -> bool:
    """No file may grow beyond what a checkpoint needs."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))

    process = job.start(limit=limit)
    _, told = process.communicate(timeout=ENDS_WITHIN_S)
    return "Traceback" not in told and process.returncode in (0, 2)


def _move_the_folder(job: Job, _draw: random.Random) -> bool:
    process = job.start()
    wait_until(lambda: len(job.checkpoints()) >= 1, process)
    job.out.rename(job.out.with_suffix(".gone"))
    _, told = process.communicate(timeout=ENDS_WITHIN_S)
    made_anew = job.out.exists()
    shutil.rmtree(job.out, ignore_errors=True)
    job.out.with_suffix(".gone").rename(job.out)
    return process.returncode == 2 and is_one_line(told) and not made_anew


def _run_it_twice(job: Job, _draw: random.Random) -> bool:
    first = job.start()
    wait_until(lambda: job.log_bytes() > 0, first)
    second = job.start()
    _, told = second.communicate(timeout=ENDS_WITHIN_S)
    first.communicate(timeout=ENDS_WITHIN_S)
    return second.returncode == 2 and is_one_line(told) and first.returncode == 0


FAULTS: dict[str, Fault] = {
    "a byte of the newest checkpoint flipped": _flip_a_byte,
    "a file of the newest checkpoint truncated": _truncate,
    "all checkpoints deleted": _lose_all_checkpoints,
    "the log cut off between two sittings": _lose_the_log,
    "a disk too full for checkpoints": _fill_the_disk,
    "the folder moved away while running": _move_the_folder,
    "the same run started twice": _run_it_twice,
}


def damage(text: Path, out: Path, n_tries: int, seed: int) -> Iterator[Outcome]:
    """Every fault so many times, each on a run of its own that is resumed afterwards."""
    draw = random.Random(seed)
    whole: Undisturbed = undisturbed(Job("topk", text, out / "whole"))
    for number, (name, fault) in enumerate(FAULTS.items()):
        for i in range(n_tries):
            job = Job("topk", text, out / f"damaged-{number}-{i}")
            stopped_cleanly = fault(job, draw)
            job.finish()
            yield job.outcome(name, stopped_cleanly, whole.result)
