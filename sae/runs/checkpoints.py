"""The checkpoints of a run: when to write one, which to keep, and which to resume from."""

import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from activation_cache.common.errors import InputError
from activation_cache.common.files import remove_leftovers
from sae.runs.settings import RunSettings
from sae.training.checkpoint import DamagedCheckpoint, read_state, write_state

DIGITS = 12
"""Of the token count that is a checkpoint's name, so that names sort as numbers do."""


class Checkpoints:
    """The folder `checkpoints/` of a run or a sweep: in it, a folder for each, named by its tokens.

    Settings say when one is due. Kept are the newest few, the best one, and the first at or after
    each multiple of `keep_every_tokens`.
    """

    def __init__(self, out: Path, settings: RunSettings, console: Console) -> None:
        self.folder = out / "checkpoints"
        self._settings = settings
        self._console = console
        self._written_at = time.monotonic()
        self._tokens_then = 0
        self._path: Path | None = None
        """The last one that was written or resumed from."""

    def is_due(self, n_tokens: int) -> bool:
        """Whether the policy asks for one now."""
        every = self._settings.checkpoint_tokens
        by_tokens = every is not None and n_tokens // every > self._tokens_then // every
        minutes = (time.monotonic() - self._written_at) / 60
        return by_tokens or minutes >= self._settings.checkpoint_minutes

    def write(
        self, n_tokens: int, state: Mapping[str, Any], also: Callable[[Path], None]
    ) -> Path | None:
        """Write a checkpoint, then remove those that the policy does not keep.

        None where it cannot be written: that gives a warning, and earlier ones are untouched. One
        of this very moment stays as it is: to replace it would be a moment without it.
        `InputError` where the folder of the run is gone, with its log: it is not made again.
        """
        refuse_gone(self.folder.parent)
        path = self.folder / f"{n_tokens:0{DIGITS}}"
        if path == self._path and path.is_dir():
            return path
        self._tokens_then = n_tokens
        try:
            write_state(path, state, also)
        except OSError as error:
            self._warn(
                f"cannot write the checkpoint {path}: {error.strerror or error}; training "
                f"continues, and the next one is tried when it is due"
            )
            return None
        finally:  # from its end: one that takes longer than the pause is not due again at once
            self._written_at = time.monotonic()
        self._path = path
        self._prune()
        return path

    def newest(self) -> dict[str, Any] | None:
        """The state of the newest that is whole; damaged ones give a warning."""
        for path in reversed(self.paths()):
            try:
                state = read_state(path)
            except DamagedCheckpoint as error:
                self._warn(f"{error}; skipped")
                continue
            self._path, self._tokens_then = path, int(path.name)
            return state
        return None

    def _warn(self, message: str) -> None:
        self._console.print(f"warning: {message}", markup=False, soft_wrap=True)

    @property
    def last(self) -> str:
        """Where the newest one is, in words."""
        paths = self.paths()
        return f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def paths(self) -> list[Path]:
        """Of all checkpoints, the oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name.isdigit())

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prune(self) -> None:
        assert self._path is not None
        paths = [path for path in self.paths() if path <= self._path]
        best = min(paths, key=_mean_delta_ce, default=None)  # none where the folder has just gone
        for i, path in enumerate(paths[: -self._settings.keep_checkpoints]):
            is_best = path == best and _mean_delta_ce(path) < math.inf
            if not is_best and not self._is_milestone(path, paths[i - 1] if i else None):
                shutil.rmtree(path, ignore_errors=True)
        for path in self.paths():
            if path > self._path:  # damaged: `newest` has skipped it
                shutil.rmtree(path, ignore_errors=True)
        remove_leftovers(self.folder)

    def _is_milestone(self, path: Path, before: Path | None) -> bool:
        every = self._settings.keep_every_tokens
        earlier = int(before.name) if before else 0
        return every is not None and int(path.name) // every > earlier // every


def _mean_delta_ce(checkpoint: Path) -> float:
    """Over its dictionaries; infinite where they were not evaluated."""
    found = [json.loads(path.read_text())["metrics"] for path in checkpoint.rglob("eval.json")]
    return statistics.fmean(m.get("delta_ce", math.inf) for m in found) if found else math.inf


def refuse_gone(folder: Path) -> None:
    """`InputError` where the folder of a run is no longer there: to write would make it again."""
    if not folder.is_dir():
        raise InputError(
            f"the folder {folder} is gone, with the log of this training: bring it back and "
            f"resume with --resume"
        )
