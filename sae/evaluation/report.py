"""The numbers of an evaluation, each with the convention that it was measured by."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.evaluation.breakdown import breakdown
from sae.evaluation.intervals import CONVENTION, Interval, intervals
from sae.evaluation.metric import Accumulator, Number
from sae.evaluation.metrics import METRICS
from sae.evaluation.seen import fires, n_tokens

LOG10_DENSITY_EDGES = [edge / 4 for edge in range(-28, 1)]
"""Bins of a quarter of a decade from 1e-7 to 1."""


@dataclass(frozen=True)
class EvalReport:
    """What an evaluation found: every metric is an attribute by its name (`report.fvu`).

    `conventions` has how each number is defined. Those that need a model are NaN where none was
    given.
    """

    values: Mapping[str, Number]
    """Every number that was measured, by name."""
    density: Float[Tensor, " d_sae"] = field(repr=False, compare=False)
    """The share of the tokens on which each feature fired."""
    intervals: Mapping[str, Interval] = field(default_factory=dict, repr=False, compare=False)
    """Low and high end of those metrics that have an interval (`sae.evaluation.intervals`)."""
    n_documents: int = field(default=0, compare=False)
    """Documents of the text; blocks, where its documents are not known; 0 for bare activations."""
    breakdown: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Rows of metrics by `position` in the block and by `frequency` of the token."""
    compared: Mapping[str, Mapping[str, Number]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """The same reconstruction in other projects' conventions, by project and its own name of the
    number, where that was asked for."""
    text: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Which text it was, where it was text: `dataset`, a hash of its `tokens`, and `is_other` where
    it was meant to be another than the dictionary names."""

    @classmethod
    def of(
        cls, totals: Accumulator, compared: Mapping[str, Mapping[str, Number]] | None = None
    ) -> "EvalReport":
        density = totals.total(fires).to(torch.float64) / max(totals.total(n_tokens), 1)
        n_documents, its_intervals = intervals(totals)
        groups = breakdown(totals)
        finite = {project: _finite(its) for project, its in (compared or {}).items()}
        return cls(totals.results(), density, its_intervals, n_documents, groups, finite)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copying and pickling ask for, before there are values
            raise AttributeError(name)
        if name in METRICS:
            return self.values.get(name, math.nan)
        raise AttributeError(f"an evaluation has no {name}: it has {', '.join(METRICS)}")

    @property
    def conventions(self) -> dict[str, str]:
        return {name: METRICS[name].convention for name in self.metrics()}

    def metrics(self) -> dict[str, Number]:
        """The numbers by name, without those that were not measured or are not finite."""
        return _finite(self.values)

    def to_json(self) -> str:
        """`eval.json`: flat metrics, their conventions, and the histogram of densities."""
        firing = self.density[self.density > 0].log10().to(torch.float32)
        edges = torch.tensor(LOG10_DENSITY_EDGES)
        counts = torch.histogram(firing.clamp(edges[0], edges[-1]), edges).hist
        density: dict[str, Any] = {
            "log10_edges": LOG10_DENSITY_EDGES,
            "counts": [int(count) for count in counts],
        }
        content = {"metrics": self.metrics(), "conventions": self.conventions, "density": density}
        if self.n_documents:
            content["n_documents"] = self.n_documents
            content["breakdown"] = self.breakdown
        if self.intervals:
            content["intervals"] = {"convention": CONVENTION, **self.intervals}
        if self.compared:
            content["compared"] = {project: dict(its) for project, its in self.compared.items()}
        if self.text:
            content["text"] = dict(self.text)
        return json.dumps(content, indent=2)


def _finite(values: Mapping[str, Number]) -> dict[str, Number]:
    return {name: value for name, value in values.items() if math.isfinite(value)}
