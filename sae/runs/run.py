"""From settings to run folders: a dictionary at every site, trained, evaluated and reported."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sae.errors import InputError
from sae.runs.errors import BAD_INPUT
from sae.runs.members import Member, RunResult, train_members
from sae.runs.origin import Origin
from sae.runs.settings import RunSettings


def run(settings: RunSettings, console: Console | None = None) -> list[RunResult]:
    """Train a dictionary at every site, evaluate each on held-out text, and write the run folders.

    One site is written to `settings.out` itself, several to a folder each below it. An interrupted
    run (KeyboardInterrupt) keeps the dictionaries as they are; a run that is refused
    (`InputError`) leaves no folder behind.
    """
    console = console or Console(quiet=True)
    if settings.out.exists():
        raise InputError(f"the run folder {settings.out} exists: name another one with --out")
    origin = Origin.open(settings, console)
    sites = origin.hook_names
    several = len(sites) > 1
    members = [
        Member(
            name=site if several else settings.out.name,
            settings=replace(origin.settings, hook_name=(site,)),
            folder=settings.out / site if several else settings.out,
            group=settings.out.name if several else None,
        )
        for site in sites
    ]
    with _fresh_folders(settings.out, [member.folder for member in members]):
        return list(train_members(members, origin, console))


@contextmanager
def _fresh_folders(out: Path, folders: Sequence[Path]) -> Iterator[None]:
    for folder in folders:
        folder.mkdir(parents=True)
    try:
        yield
    except BAD_INPUT:
        shutil.rmtree(out)
        raise
