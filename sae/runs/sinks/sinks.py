"""Where the records of a run go: a file of record, the console, and Weights & Biases."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from activation_cache.common.errors import InputError
from activation_cache.common.numbers import format_number

Row = dict[str, int | float]
"""One row of metrics.jsonl: numbers by the names of the names table."""


@runtime_checkable
class Sink(Protocol):
    """Takes the rows of one dictionary's training, then the metrics of its evaluation."""

    def log(self, row: Row) -> None: ...

    def finish(self, metrics: Row) -> None: ...

    def close(self) -> None:
        """Let go of files and connections; called whatever happens, at most once."""
        ...


class JsonLinesSink:
    """A file of rows, such as metrics.jsonl, the log of record. Every row is written through.

    What is NaN or infinite is written as null: JSON has neither.

    What the file holds behind `keep_bytes` is cut off: rows of a training that was interrupted and
    goes on from before them.
    """

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        self._path = path
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(min(keep_bytes, path.stat().st_size))
        self._file.seek(0, os.SEEK_END)

    def log(self, row: Row) -> None:
        strict = {name: value if math.isfinite(value) else None for name, value in row.items()}
        try:
            self._file.write(json.dumps(strict, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"cannot write to {self._path}: {error.strerror}; mend that and go on with --resume"
            ) from error

    def finish(self, metrics: Row) -> None:
        pass  # the evaluation has a file of its own

    def position(self) -> int:
        """Bytes so far, which are on the disk once this returns."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        with suppress(OSError):  # of a disk that is full, which `log` has told
            self._file.close()


class ConsoleSink:
    """A progress bar and the latest row of every dictionary, while the context lasts."""

    COLUMNS = ("loss", "fvu", "l0", "dead", "tokens_per_s")

    def __init__(self, console: Console, names: list[str], n_tokens: int) -> None:
        self._names = names
        self._rows: dict[str, Row] = {}
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("training", total=n_tokens)
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)

    def __enter__(self) -> "ConsoleSink":
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, name: str, row: Row) -> None:
        self._rows[name] = row
        self._progress.update(self._task, completed=row["n_tokens"])

    def _render(self) -> Table:
        table = Table.grid()
        numbers = Table(box=None, padding=(0, 2))
        numbers.add_column("")
        for column in self.COLUMNS:
            numbers.add_column(column, justify="right")
        for name in self._names:
            row = self._rows.get(name, {})
            numbers.add_row(name, *(format_number(row.get(column)) for column in self.COLUMNS))
        table.add_row(self._progress)  # first: a terminal cuts off what is below its last line
        table.add_row(numbers)
        return table
