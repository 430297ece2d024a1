"""Break training runs in every way we know, resume them, and count what was lost.

    python scripts/chaos.py --kills 100 --tries 3 --fuzz-minutes 10

kill        kill -9 at random moments, on runs of four architectures, four times each
interrupt   SIGINT and SIGTERM in the middle of training
damage      checkpoints and logs damaged, disks full, folders gone, the same run started twice
fuzz        files that are almost right, for every reader of configs, caches and dictionaries
memory      a long training, whose resident memory must not grow

A run that is resumed must end with the bytes of the run that nobody disturbed: the log, the
evaluation, the dictionary. The exit code is 1 where anything was lost.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Literal

from faults.damage import damage
from faults.fuzz import fuzz
from faults.kills import interrupt, kill
from faults.memory import resident_memory_growth
from faults.runs import Outcome
from rich.console import Console
from rich.table import Table

from activation_cache.text.docstrings import docstring_documents
from sae.commands.exits import run_command
from sae.commands.flags import parse

TEXT_CHARS = 1_000_000
"""Characters that the runs read."""
MOST_GROWTH = 0.02
"""Of the resident memory of a long training."""
WIDTH = 150
"""Columns of the table where the output is no wider terminal."""


@dataclass(frozen=True, kw_only=True)
class ChaosFlags:
    """Break training runs in every way we know, resume them, and count what was lost."""

    only: tuple[Literal["kill", "interrupt", "damage", "fuzz", "memory"], ...] = ()
    """Do just these; by default all but the memory, which takes a quarter of an hour."""
    kills: int = 100
    """Times that runs are killed."""
    tries: int = 4
    """Of every other fault."""
    fuzz_minutes: float = 1.0
    """Minutes of fuzzing."""
    memory_tokens: int = 10_000_000
    """Tokens of the long training."""
    seed: int = 0
    """Draws the moments and the damage."""
    out: Path | None = None
    """Keep the runs in this folder; by default they are removed."""
    json: bool = False
    """Print the table as JSON."""


def main(arguments: list[str]) -> None:
    flags = parse(ChaosFlags, arguments)
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        out = (flags.out or Path(temporary)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        rows = list(_rows(flags, out))
    if flags.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _show(rows)
    sys.exit(any(row.failures for row in rows))


@dataclass(frozen=True, kw_only=True)
class Row:
    """All tries of one fault."""

    fault: str
    tries: int
    as_undisturbed: int = 0
    """Went on to the bytes of the undisturbed run."""
    stopped_cleanly: int = 0
    """Ended with one line and an exit code that says so, or refused the input."""
    rows_lost: int = 0
    failures: int = 0
    """Tries that are in neither of the two above."""
    note: str = ""


def _rows(flags: ChaosFlags, out: Path) -> Iterator[Row]:
    chosen = flags.only or ("kill", "interrupt", "damage", "fuzz")
    text = out / "text.txt"
    _write_text(text)
    if "kill" in chosen:
        yield from _summed(kill(text, out / "kill", flags.kills, flags.seed))
    if "interrupt" in chosen:
        yield from _summed(interrupt(text, out / "interrupt", flags.tries, flags.seed))
    if "damage" in chosen:
        yield from _summed(damage(text, out / "damage", flags.tries, flags.seed))
    if "fuzz" in chosen:
        for row in fuzz(flags.fuzz_minutes, flags.seed, out / "crashes"):
            yield Row(
                fault=f"fuzzed: {row.target}",
                tries=row.tries,
                stopped_cleanly=row.refused,
                failures=row.crashes,
                note=f"{row.accepted} were valid" if row.accepted else "",
            )
    if "memory" in chosen:
        growth = resident_memory_growth(flags.memory_tokens)
        note = f"{growth:+.2%} resident memory over {flags.memory_tokens:,} tokens"
        yield Row(fault="a long training", tries=1, failures=growth > MOST_GROWTH, note=note)


def _summed(outcomes: Iterable[Outcome]) -> Iterator[Row]:
    """A row for each fault, its outcomes told as they come."""
    for fault, its_outcomes in groupby(outcomes, key=attrgetter("fault")):
        row = Row(fault=fault, tries=0)
        for outcome in its_outcomes:
            row = Row(
                fault=fault,
                tries=row.tries + 1,
                as_undisturbed=row.as_undisturbed + outcome.is_the_same,
                stopped_cleanly=row.stopped_cleanly + outcome.stopped_cleanly,
                rows_lost=row.rows_lost + outcome.rows_lost,
                failures=row.failures + (not outcome.is_right),
            )
            print(f"{row.tries} {fault}: {outcome.in_words}", file=sys.stderr)
        yield row


def _write_text(path: Path) -> None:
    """The first of the documentation: reading all of it takes longer than training."""
    parts: list[str] = []
    for document in docstring_documents("train"):
        parts.append(document)
        if sum(map(len, parts)) > TEXT_CHARS:
            break
    path.write_text("\n\n".join(parts))


def _show(rows: Sequence[Row]) -> None:
    table = Table()
    for field in fields(Row):
        is_text = field.name in ("fault", "note")
        table.add_column(field.name.replace("_", " "), justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(str(value) for value in asdict(row).values()))
    Console(width=max(Console().width, WIDTH)).print(table)


if __name__ == "__main__":
    run_command(main)
