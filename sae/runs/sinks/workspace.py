"""The workspace of a project in Weights & Biases: its panels in an order that one can read."""

from typing import TYPE_CHECKING, Any

from sae.evaluation import METRICS
from sae.pages.curves import PANELS
from sae.runs.sinks.wandb_results import TABLE

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

X_AXIS = "train/tokens"
SETTINGS = ("architecture", "k", "d_sae", "lr")
"""What runs of a project mostly differ by."""
RESULTS = ("eval/l0", "eval/fvu", "eval/delta_ce")


def workspace(entity: str, project: str, name: str) -> "Workspace":
    """A section for each group of curves, one for the evaluation with the Pareto plot of runs, and
    one for the features. Nothing is sent before `save()`."""
    import wandb_workspaces.reports.v2.interface as panels
    from wandb_workspaces.workspaces import Section, Workspace, WorkspaceSettings

    def lines(keys: list[Any], title: str, *, log_y: bool = False) -> Any:
        return panels.LinePlot(title=title, x=X_AXIS, y=keys, log_y=log_y)

    curves: dict[str, list[Any]] = {}
    for panel in PANELS:
        keys: list[Any] = [f"{panel.section}/{key}" for key in panel.keys]
        curves.setdefault(panel.section, []).append(lines(keys, panel.title, log_y=panel.log_y))
    evaluated = [f"eval/{metric.name}" for metric in METRICS.values() if metric.in_table]
    pareto = panels.ScatterPlot(title="Pareto: L0 and delta CE", x="eval/l0", y="eval/delta_ce")
    compared = [*map(panels.Config, SETTINGS), *map(panels.SummaryMetric, RESULTS)]
    columns = [panels.ParallelCoordinatesPlotColumn(metric) for metric in compared]
    comparison = [pareto, panels.ParallelCoordinatesPlot(columns=columns)]
    scalars = [panels.ScalarChart(title=key, metric=key) for key in evaluated]
    shown = [panels.WeavePanelSummaryTable(table_name=TABLE)]
    sections = {"Evaluation": comparison + scalars, **curves, "Features": shown}
    return Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[Section(name=n, panels=its, is_open=True) for n, its in sections.items()],
        settings=WorkspaceSettings(x_axis=X_AXIS),
    )
