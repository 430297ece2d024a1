"""Which dictionaries of a sweep are Pareto-optimal, and the picture of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae.evaluation.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRONTS = {METRICS[name].title: METRICS[name] for name in ("fvu", "delta_ce")}
"""What is traded against L0, by the name in the table: less of both is better."""

SAME_L0 = 1.01
"""One per cent more L0 counts as the same: dictionaries of one k differ by that."""


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One evaluated member of a sweep."""

    name: str
    hook_name: str
    architecture: str
    point: Mapping[str, Any]
    """What is particular to it."""
    fronts: tuple[str, ...] = ()
    """Of which of `FRONTS` it is a part, among the members of its site."""
    metrics: Mapping[str, Any]

    def at(self, metric: str) -> tuple[float, float] | None:
        """L0 and the metric, where both were measured: of a diverged dictionary nothing is."""
        point = self.metrics.get("l0", math.nan), self.metrics.get(metric, math.nan)
        return point if all(map(math.isfinite, point)) else None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "fronts": [FRONTS[front].name for front in self.fronts]}


def mark_fronts(rows: Iterable[SweepRow]) -> list[SweepRow]:
    """The rows site by site; of each, those on most fronts first, and in the order of L0."""
    rows = list(rows)
    marked: list[SweepRow] = []
    for row in rows:
        members = [other for other in rows if other.hook_name == row.hook_name]
        fronts = tuple(name for name in FRONTS if _is_on_front(row, members, FRONTS[name].name))
        marked.append(replace(row, fronts=fronts))
    return sorted(marked, key=_order)


def _order(row: SweepRow) -> tuple[str, int, float]:
    l0 = row.metrics.get("l0", math.inf)
    return row.hook_name, -len(row.fronts), math.inf if math.isnan(l0) else l0


def _is_on_front(row: SweepRow, members: Sequence[SweepRow], metric: str) -> bool:
    """Whether no other member has at most as much of both, and less of one. One that has less of
    the metric may have a little more L0."""
    mine = row.at(metric)
    others = [point for other in members if (point := other.at(metric)) is not None]
    return mine is not None and not any(
        (l0 < mine[0] and value == mine[1]) or (l0 <= SAME_L0 * mine[0] and value < mine[1])
        for l0, value in others
    )


def write_plot(rows: Sequence[SweepRow], folder: Path) -> None:
    """`pareto.png` and `pareto.svg`: a line of panels for each site, a panel for each front."""
    from matplotlib.figure import Figure

    sites = sorted({row.hook_name for row in rows})
    figure = Figure(figsize=(11, 4.2 * len(sites)), layout="constrained")
    panels = figure.subplots(len(sites), len(FRONTS), squeeze=False)
    for site, line in zip(sites, panels, strict=True):
        at_site = [row for row in rows if row.hook_name == site]
        for front, axes in zip(FRONTS, line, strict=True):
            _draw(axes, at_site, front)
            axes.set_title(site)
    for kind in ("png", "svg"):
        figure.savefig(folder / f"pareto.{kind}", dpi=150)


def _draw(axes: "Axes", rows: Sequence[SweepRow], front: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    metric = FRONTS[front]
    axes.set_xlabel(f"{METRICS['l0'].title}, {METRICS['l0'].meaning}")
    axes.set_ylabel(f"{front}, {metric.unit}" if metric.unit else front)
    points = {row.name: point for row in rows if (point := row.at(metric.name)) is not None}
    if not points:
        return
    best = sorted(points[row.name] for row in rows if front in row.fronts)
    axes.plot(*zip(*best, strict=True), color="0.75", zorder=1, label="front")
    for architecture in sorted({row.architecture for row in rows}):
        its = [points[r.name] for r in rows if r.architecture == architecture and r.name in points]
        if its:
            axes.scatter(*zip(*its, strict=True), s=28, label=architecture)
    if all(l0 > 0 for l0, _ in points.values()):
        axes.set_xscale("log")
    if all(value > 0 for _, value in points.values()):
        axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
