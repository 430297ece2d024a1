"""Save a workspace for the runs of a project in Weights & Biases."""

import os
from dataclasses import dataclass

from activation_cache.common.errors import described
from sae.commands.exits import fail
from sae.commands.flags import parse


@dataclass(frozen=True, kw_only=True)
class WorkspaceFlags:
    """Save a workspace for the runs of a project in Weights & Biases, for those with an account.

    It has the curves by section, the evaluation with the Pareto plot of runs, and the features. It
    needs the package wandb-workspaces: pip install 'featureloom[workspace]'.
    """

    project: str | None = None
    """Project of the runs (WANDB_PROJECT, or featureloom)."""
    entity: str | None = None
    """User or team (WANDB_ENTITY, or that of the API key)."""
    name: str = "Dictionaries"
    """What the workspace is called."""


def main(arguments: list[str]) -> None:
    flags = parse(WorkspaceFlags, arguments)
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError:
        fail("the package wandb-workspaces is missing: pip install 'featureloom[workspace]'")
    from sae.runs.sinks.wandb_results import NoAccount, default_entity
    from sae.runs.sinks.workspace import workspace

    project = flags.project or os.environ.get("WANDB_PROJECT", "featureloom")
    entity = flags.entity or os.environ.get("WANDB_ENTITY")
    try:
        of_the_key = default_entity()
        entity = entity or of_the_key
        if entity is None:
            fail("the API key of Weights & Biases belongs to no user or team: name one by --entity")
        print(f"workspace  {workspace(entity, project, flags.name).save().url}")
    except NoAccount:
        fail("no account of Weights & Biases is logged in: run wandb login, or set WANDB_API_KEY")
    except Exception as error:  # whatever the server, or the way to it, has to say
        fail(
            f"Weights & Biases did not save the workspace of project {project} "
            f"({described(error)}): see to that, and call this again"
        )
