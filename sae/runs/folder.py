"""The folder of a run or a sweep, for one process alone; a refused one leaves none behind."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from activation_cache.common.errors import InputError, disk_errors_as_input_errors
from activation_cache.common.files import TEMPORARY, remove_leftovers
from activation_cache.common.lock import folder_lock
from sae.runs.signals import with_resume_hint

PARTS = {"config.json", "checkpoints", "members"}
"""Of which a folder that is resumed in must hold one, unless it is empty."""


RUNS = Path("runs")


def numbered(*, resume: bool) -> Path:
    """Where a run goes whose folder nobody named: runs/run-N with the next free number; to resume,
    with the last one."""
    numbers = [path.name.removeprefix("run-") for path in RUNS.glob("run-*")]
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    return RUNS / f"run-{max(1, last if resume else last + 1)}"


@contextmanager
def claimed(out: Path, *, resume: bool, stop_signal: str | None) -> Iterator[None]:
    """Within it, the folder is there and locked. `InputError` where it is in use, holds something
    else, or exists and is not resumed."""
    is_new = not os.path.lexists(out)
    if not is_new and not resume:
        raise InputError(
            f"the folder {out} exists: resume it with --resume, or name another one with --out"
        )
    with (
        folder_lock(out),
        _removed_if_refused(out, is_new),
        disk_errors_as_input_errors(out),
        with_resume_hint(stop_signal),
    ):
        remove_leftovers(out)
        found = {path.name for path in out.iterdir() if path.suffix not in (".lock", TEMPORARY)}
        if found and not found & PARTS:  # a cache, say
            raise InputError(
                f"{out} is not the folder of a run: it holds {min(found)} and no config.json; "
                f"name another one with --out"
            )
        yield


@contextmanager
def _removed_if_refused(out: Path, is_new: bool) -> Iterator[None]:
    """Leave no new folder behind where nothing was trained in it."""
    try:
        yield
    except InputError:
        logs = out.rglob("metrics.jsonl")
        holds_work = any((out / "checkpoints").glob("*")) or any(log.stat().st_size for log in logs)
        if is_new and not holds_work:
            shutil.rmtree(out, ignore_errors=True)
        raise
