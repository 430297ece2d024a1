"""What a metric is: sums over tokens, a function of the sums, and what has to be known of both."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.evaluation.seen import Seen, Total, n_tokens

Sum = Callable[[Seen], Any]
"""What is added up of a batch: a number for each token [rows] or each prediction, which gives the
metric an interval and its values by group; or a `Total`, or one number for the batch."""

Number = int | float


def ratio(total: Any, of: Any) -> Any:
    """Of numbers, or of tensors of them. NaN where there is nothing to divide by."""
    return total / of if isinstance(of, Tensor) or of else float("nan")


def mean(total: Any, n: Any) -> Any:
    """NaN where there is nothing that was counted."""
    return ratio(total, n)


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
    result: Callable[..., Any] = mean
    """The number, from the totals of the sums in that order; where it has an interval, also many
    numbers from tensors of totals."""
    label: str = ""
    """On axes and at the heads of columns; by default the name."""
    unit: str = ""
    better: Literal["lower", "higher", "neither"] = "neither"
    needs_model: bool = False
    """Whether it is of the model's predictions."""
    has_interval: bool = True
    """Whether another text of as many documents would have another; it needs sums over tokens."""
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
    """The totals of the sums that some metrics are made of: of all tokens, and of each group.

    It divides once, at the end, so a result does not depend on how tokens were batched.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = tuple(metrics)
        self._totals: dict[Sum, Any] = {}
        self._by_group: dict[str, dict[Sum, Tensor]] = {}

    def update(self, seen: Seen) -> None:
        """Add a batch. What is of predictions needs a batch that has some."""
        for add_up in dict.fromkeys(s for m in self._measured(seen) for s in m.sums):
            value = add_up(seen)
            is_of_tokens = isinstance(value, Tensor) and not isinstance(add_up, Total)
            _add(self._totals, add_up, value.sum().item() if is_of_tokens else value)
            for name, groups in seen.groups.items() if is_of_tokens else ():
                its = groups if len(value) == len(groups) else groups[seen.has_prediction]
                _add(self._by_group.setdefault(name, {}), add_up, its.bincount(value, minlength=1))

    def merge(self, other: "Accumulator") -> None:
        """Add what another one has seen."""
        for add_up, total in other._totals.items():
            _add(self._totals, add_up, total)
        for name, totals in other._by_group.items():
            for add_up, total in totals.items():
                _add(self._by_group.setdefault(name, {}), add_up, total)

    def total(self, add_up: Sum) -> Any:
        return self._totals[add_up]

    def results(self) -> dict[str, Number]:
        """By name, of all metrics whose sums there are."""
        return _results(self.metrics, self._totals)

    def by_group(self, name: str) -> dict[int, dict[str, Number]]:
        """The same of the tokens of each group that has some."""
        sums, numbers, table = self._table(name)
        rows = (dict(zip(sums, row, strict=True)) for row in table.tolist())
        return {n: _results(self.metrics, its) for n, its in zip(numbers, rows, strict=True)}

    def n_groups(self, name: str) -> int:
        return len(self._table(name)[1])

    def resampled(self, name: str, n: int, seed: int) -> dict[str, Float[Tensor, " n"]]:
        """The results of `n` texts, each of as many groups as there are, drawn from these with
        replacement: of the metrics that have an interval."""
        sums, numbers, table = self._table(name)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(numbers), (n, len(numbers)), generator=generator)
        weights = torch.zeros(n, len(numbers), dtype=table.dtype)
        weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=table.dtype))
        totals = dict(zip(sums, (weights @ table).unbind(dim=1), strict=True))
        return _results([m for m in self.metrics if m.has_interval], totals)

    def _table(self, name: str) -> tuple[list[Sum], list[int], Tensor]:
        """The sums, the numbers of the groups that have tokens, and their totals [groups, sums]."""
        totals = self._by_group.get(name, {})
        if not totals:
            return [], [], torch.zeros(0, 0)
        n_groups = max(map(len, totals.values()))
        table = torch.stack([_as_long(total, n_groups) for total in totals.values()], dim=1)
        numbers = _as_long(totals[n_tokens], n_groups).nonzero().flatten()
        return [*totals], numbers.tolist(), table[numbers]

    def _measured(self, seen: Seen) -> list[Metric]:
        return [m for m in self.metrics if seen.predictions is not None or not m.needs_model]


def _results(metrics: Iterable[Metric], totals: Mapping[Sum, Any]) -> dict[str, Any]:
    return {
        metric.name: metric.result(*(totals[add_up] for add_up in metric.sums))
        for metric in metrics
        if all(add_up in totals for add_up in metric.sums)
    }


def _add(totals: dict[Sum, Any], add_up: Sum, amount: Any) -> None:
    if add_up not in totals:
        totals[add_up] = amount
        return
    before = totals[add_up]
    if isinstance(amount, Tensor) and not isinstance(add_up, Total):  # groups come as they are met
        n = max(len(before), len(amount))
        before, amount = _as_long(before, n), _as_long(amount, n)
    totals[add_up] = before + amount


def _as_long(totals: Tensor, n: int) -> Tensor:
    return torch.nn.functional.pad(totals, (0, n - len(totals)))
