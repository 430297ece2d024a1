"""What a finished run leaves in Weights & Biases: some features, and artifacts with lineage."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae.pages.telling_features import FeatureRow, telling_features
from sae.runs.member import Member

if TYPE_CHECKING:
    from wandb import Artifact, Table

TABLE = "features"
COLUMNS = ("feature", "density", "max", "fires on", "raises", "where it is largest")

LONGEST_NAME = 128
"""Characters that W&B allows."""


def log_results(run: Any, member: Member) -> None:
    """Log the features that the report shows, the dictionary, its evaluation, and what it read."""
    table = feature_table(member)
    if table is not None:
        run.log({TABLE: table})
    if member.settings.cache is not None and not run.offline:  # offline, W&B refuses it
        run.use_artifact(cache_artifact(member.settings.cache))
    for artifact in artifacts(member):
        run.log_artifact(artifact, aliases=["final"])


def feature_table(member: Member) -> "Table | None":
    """A row for each of them; None where none were collected."""
    import wandb

    shown = telling_features(member.folder, member.settings.seed)
    if shown is None:
        return None
    return wandb.Table(columns=[*COLUMNS], data=[_cells(row) for row in shown.rows])


def _cells(row: FeatureRow) -> list[Any]:
    tokens = (" ".join(row.fires_on), " ".join(row.raises))
    return [row.index, row.density, row.max, *tokens, f"{row.before}[[{row.at}]]{row.after}"]


def artifacts(member: Member) -> Iterator["Artifact"]:
    """The dictionary and its evaluation. Of the dictionary, W&B gets where its files are, and their
    checksums: uploading some hundred megabytes is for those who ask for it."""
    import wandb

    folder, name = member.folder, _name(member)
    about = json.loads((folder / "sae" / "cfg.json").read_text())
    dictionary = wandb.Artifact(f"sae-{name}", "model", metadata=about)
    dictionary.add_reference((folder / "sae").absolute().as_uri())
    yield dictionary
    evaluated = json.loads((folder / "eval.json").read_text())["metrics"]
    evaluation = wandb.Artifact(f"eval-{name}", "evaluation", metadata=evaluated)
    # Where it is, and not in a copy of W&B's outside of the run folder.
    evaluation.add_file(str(folder / "eval.json"), policy="immutable", skip_cache=True)
    yield evaluation


def cache_artifact(cache: str) -> "Artifact":
    """The activation cache that a run was trained on, by its address alone."""
    import wandb

    return wandb.Artifact(_valid(Path(cache).name), "dataset", metadata={"address": cache})


def _name(member: Member) -> str:
    name = member.name if member.group is None else f"{member.group}-{member.name}"
    return _valid(name)


def _valid(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[: LONGEST_NAME - len("eval-")] or "unnamed"


def default_entity() -> str | None:
    """The user or team of the API key; None where there is none, or no way to the server."""
    import wandb

    try:
        return wandb.Api(timeout=20).default_entity if wandb.api.api_key else None
    except Exception:
        return None
