"""What a sink is: it takes the rows of one dictionary's training, and then its evaluation."""

from typing import Protocol, runtime_checkable

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
