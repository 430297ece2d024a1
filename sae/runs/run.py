"""From settings to run folders: a dictionary at every site, trained, evaluated and reported."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from activation_cache.common.errors import InputError, disk_errors_as_input_errors
from activation_cache.common.files import TEMPORARY, remove_leftovers, write_file
from activation_cache.common.lock import folder_lock
from activation_cache.common.versions import library_versions
from sae.runs.evaluation import evaluate_on_held_out_text
from sae.runs.member import Member
from sae.runs.members import RunResult, check, checkpoints_of, train_members
from sae.runs.origin import Origin
from sae.runs.settings.run_settings import RunSettings, changed_setting, describe
from sae.runs.signals import told_how_to_go_on
from sae.serialization import load


def run(
    settings: RunSettings, console: Console | None = None, *, resume: bool = False
) -> list[RunResult]:
    """Train a dictionary at every site, evaluate each on held-out text, and write the run folders.

    One site is written to `settings.out` itself, several to a folder each below it. A signal ends
    it with a checkpoint (`Interrupted`); a run that is refused (`InputError`) before it has trained
    leaves no folder behind. With `resume` it goes on with the run in the folder, to the same
    result as if it had not been interrupted, or begins it where there is none.
    """
    console = console or Console(quiet=True)
    out = settings.out
    if os.path.lexists(out) and not resume:
        raise InputError(
            f"the run folder {out} exists: go on with it by --resume, or name another one with "
            f"--out"
        )
    is_new = not os.path.lexists(out)
    with (
        folder_lock(out),
        _removed_if_refused(out, is_new),
        disk_errors_as_input_errors(out),
        told_how_to_go_on(settings.stop_signal),
    ):
        remove_leftovers(out)
        _refuse_foreign(out)
        origin = Origin.open(settings, console)
        settings = replace(origin.settings, hook_name=origin.hook_names)
        if resume:
            _refuse_changes(settings, console)
        members = _members(settings)
        if all(_is_complete(member) for member in members):
            console.print(f"the run in {out} is complete: evaluating it", markup=False)
            return [_again(member, origin) for member in members]
        checkpoints = checkpoints_of(settings, out, console)
        found = checkpoints.newest() if resume else None
        state = found[1] if found else None
        if state is None and any((member.folder / "eval.json").exists() for member in members):
            raise InputError(
                f"the run in {out} was complete and has no checkpoint to go on from: train on with "
                f"--start-from {out} into another --out"
            )
        check(members, origin)  # a site that is none could name a folder elsewhere
        if state is None:  # so that --resume knows of it, whatever comes now
            write_file(out / "config.json", describe(settings) + "\n")
        for member in members:
            member.folder.mkdir(parents=True, exist_ok=True)
        also = {out: settings}
        return list(train_members(members, origin, console, checkpoints, state, also))


def _members(settings: RunSettings) -> list[Member]:
    several = len(settings.hook_name) > 1
    out = settings.out
    return [
        Member(
            name=site if several else out.name,
            settings=replace(settings, hook_name=(site,)),
            folder=out / site if several else out,
            group=out.name if several else None,
        )
        for site in settings.hook_name
    ]


def _refuse_foreign(out: Path) -> None:
    """A folder with other things in it, a cache, say, is not begun in by --resume either."""
    found = {path.name for path in out.iterdir() if path.suffix not in (".lock", TEMPORARY)}
    if found and not found & {"config.json", "checkpoints"}:
        raise InputError(
            f"{out} is not the folder of a run: it holds {min(found)} and no config.json; name "
            f"another one with --out"
        )


def _config(folder: Path) -> dict[str, Any]:
    """What config.json says; nothing where it is damaged, or the run was killed before."""
    try:
        content = json.loads((folder / "config.json").read_text())
        is_whole = all(isinstance(content[part], dict) for part in ("settings", "versions"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return content if is_whole else {}


def _refuse_changes(settings: RunSettings, console: Console) -> None:
    """`InputError` where the run was begun with other settings; told where it was other libraries.

    More tokens than it was begun with are no change: it goes on for longer.
    """
    config = _config(settings.out)
    if not config:
        return
    then = config["settings"]
    name = changed_setting(then, settings)
    if name is not None:
        raise InputError(
            f"the run in {settings.out} was begun with {name} {then.get(name)!r}, and "
            f"{settings.to_dict()[name]!r} is asked for now: give that, or name another --out"
        )
    for library, version in library_versions().items():
        before = config["versions"].get(library)
        if before != version:
            console.print(
                f"warning: the run was begun with {library} {before}, and this is {version}: the "
                f"result may differ in its last digits",
                markup=False,
            )


def _is_complete(member: Member) -> bool:
    """Whether it was trained for its tokens, evaluated and reported."""
    files = ("eval.json", "report.html", "sae/cfg.json", "sae/sae_weights.safetensors")
    then = _config(member.folder).get("settings", {}).get("n_tokens")
    return then == member.settings.n_tokens and all(
        (member.folder / name).is_file() for name in files
    )


def _again(member: Member, origin: Origin) -> RunResult:
    sae = load(member.folder, device=origin.model.device)
    (report,) = evaluate_on_held_out_text([sae], origin.model, origin.held_out)
    return RunResult(member.hook_name, member.folder, sae, report)


@contextmanager
def _removed_if_refused(out: Path, is_new: bool) -> Iterator[None]:
    """Leave no new folder behind where nothing was trained in it."""
    try:
        yield
    except InputError:
        if is_new and not _holds_work(out):
            shutil.rmtree(out, ignore_errors=True)
        raise


def _holds_work(out: Path) -> bool:
    """Whether a run has left anything there."""
    return any((out / "checkpoints").glob("*")) or any(
        path.stat().st_size for path in out.rglob("metrics.jsonl")
    )
