"""The console: a progress bar and the latest numbers."""

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from activation_cache.common.numbers import format_number
from sae.runs.sinks.sink import Row


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

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
        if not self._live.console.is_terminal:  # where rich leaves the last line open
            self._live.console.line()

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
