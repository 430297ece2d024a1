"""A harvest by scripts/harvest.py that nothing disturbed, and what a refusal looks like."""

import re
from pathlib import Path
from typing import NamedTuple

from forks import Done, Forks, files, flags, write_text


class Undisturbed(NamedTuple):
    """A harvest that nothing came in the way of."""

    text: Path
    folder: Path
    done: Done
    n_moments: int
    """See `Forks.harvest`."""

    @property
    def content(self) -> dict[str, bytes]:
        return files(self.folder)


def harvest_undisturbed(forks: Forks, base: Path) -> Undisturbed:
    text, folder, moments = write_text(base / "text.txt"), base / "cache", base / "moments"
    done = forks.run(*flags(text, folder), moments=moments)
    return Undisturbed(text, folder, done, int(moments.read_text()))


def refused(done: Done, message: str) -> None:
    assert done.code == 2, done
    assert re.search(message, done.err), done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
