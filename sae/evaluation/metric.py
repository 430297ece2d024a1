"""What a metric is: sums over tokens, a function of the sums, and what has to be known of both."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sae.evaluation.seen import Seen

Sum = Callable[[Seen], Any]
"""Adds something up over the tokens of a batch: a number, or one for each feature."""

Number = int | float


def ratio(total: Number, of: Number) -> float:
    """NaN where there is nothing to divide by."""
    return total / of if of else float("nan")


def mean(total: Number, n: int) -> float:
    return total / max(n, 1)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that an evaluation reports. One file in `metrics/` each, and a line in its list.

    Everything that shows numbers is made from this: `eval.json`, the console, the report, Weights &
    Biases, docs/metrics.md and the model card.
    """

    name: str
    """In files and in Python."""
    convention: str
    """How exactly it is defined."""
    meaning: str
    """What it means, for a person."""
    sums: tuple[Sum, ...]
    """Each is taken once for all metrics that name it."""
    result: Callable[..., Number] = mean
    """The number, from the totals of the sums in that order."""
    label: str = ""
    """On axes and at the heads of columns; by default the name."""
    unit: str = ""
    better: Literal["lower", "higher", "neither"] = "neither"
    needs_model: bool = False
    """Whether it is of the model's predictions."""
    in_table: bool = True
    """Whether the table of an evaluation has a row for it."""
    intervention: str = ""
    """Of a cross-entropy: what was done to the model, named beside its bar in the report."""
    text: Callable[[Mapping[str, Number]], str] | None = None
    """How the table shows it, from all numbers by name; by default with four digits."""

    @property
    def title(self) -> str:
        return self.label or self.name


@dataclass(frozen=True, kw_only=True)
class PredictionMetric(Metric):
    """A number of the model's predictions, in nats unless `unit` is another."""

    needs_model: bool = True
    unit: str = "nats"


class Accumulator:
    """The totals of the sums that some metrics are made of.

    It divides once, at the end, so a result does not depend on how tokens were batched.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = tuple(metrics)
        self._totals: dict[Sum, Any] = {}

    def update(self, seen: Seen) -> None:
        """Add a batch. What is of predictions needs a batch that has some."""
        for add_up in dict.fromkeys(s for m in self._measured(seen) for s in m.sums):
            self._add(add_up, add_up(seen))

    def merge(self, other: "Accumulator") -> None:
        """Add what another one has seen."""
        for add_up, total in other._totals.items():
            self._add(add_up, total)

    def total(self, add_up: Sum) -> Any:
        return self._totals[add_up]

    def results(self) -> dict[str, Number]:
        """By name, of all metrics whose sums there are."""
        return {
            metric.name: metric.result(*(self._totals[add_up] for add_up in metric.sums))
            for metric in self.metrics
            if all(add_up in self._totals for add_up in metric.sums)
        }

    def _add(self, add_up: Sum, amount: Any) -> None:
        self._totals[add_up] = self._totals[add_up] + amount if add_up in self._totals else amount

    def _measured(self, seen: Seen) -> list[Metric]:
        return [m for m in self.metrics if seen.predictions is not None or not m.needs_model]
