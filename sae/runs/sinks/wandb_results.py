"""What a finished run leaves in Weights & Biases: some features, and artifacts with lineage."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import xxhash

from activation_cache.common.errors import described
from sae.pages.telling_features import FeatureRow, telling_features
from sae.runs.member import Member
from sae.runs.sinks.sink import Row

if TYPE_CHECKING:
    from wandb import Artifact, Table

    from sae.runs.settings import RunSettings

TABLE = "features"
COLUMNS = ("feature", "density", "max", "alignment", "fires on", "raises", "context")
"""A context has [[ ]] around the token where the feature is largest."""

OF_A_CACHE = ("model", "dtype", "hook_name", "dataset", "context_size", "all_positions")
"""Settings that say what is in a cache."""

PATIENCE = 20
"""Seconds for the server to say whose a key is."""

WAIT = 5
"""Seconds for the server to take or reject an artifact."""

DATA_DIR = "WANDB_DATA_DIR"
_STAGING = Lock()
"""The environment is one for the threads of all dictionaries."""

LONGEST_NAME = 128
"""Characters that W&B allows."""


def log_results(run: Any, member: Member, row: Row) -> str | None:
    """Log the row of the evaluation, with it the features that the report shows; then artifacts.

    What W&B has against the features or the artifacts keeps nothing else back, and is returned.
    """
    from wandb.sdk.artifacts.exceptions import WaitTimeoutError

    faults: list[str] = []
    results: dict[str, Any] = {}
    logged: list[Any] = []
    with _noted(faults):
        table = feature_table(member)
        results = {} if table is None else {TABLE: table}
    with _staged_in(member.folder / "wandb"):
        run.log({**row, **results}, commit=True)
        with _noted(faults):
            logged += (run.log_artifact(its, aliases=["final"]) for its in artifacts(member))
    for artifact in logged if not run.offline else ():
        with _noted(faults), suppress(WaitTimeoutError):  # finishing the run waits for it, too
            artifact.wait(timeout=WAIT)  # a server that rejects one says so only here
    with _noted(faults):  # last: W&B waits for the server there
        if member.settings.cache is not None and not run.offline:  # offline, W&B refuses it
            run.use_artifact(cache_artifact(member.settings))
    return faults[0] if faults else None


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Keep files of artifacts in this folder until they are uploaded. W&B would keep them in the
    user's data folder: a run folder that is moved to another machine would lack them."""
    with _STAGING:
        is_chosen = DATA_DIR in os.environ  # by the user: the variables of W&B hold
        os.environ.setdefault(DATA_DIR, str(folder.absolute()))
        try:
            yield
        finally:
            if not is_chosen:
                os.environ.pop(DATA_DIR)


@contextmanager
def _noted(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever W&B raises
        faults.append(f"it did not take all features and artifacts ({described(error)})")


def feature_table(member: Member) -> "Table | None":
    """A row for each of them; None where none were collected."""
    import wandb

    shown = telling_features(member.folder, member.settings.seed)
    if shown is None:
        return None
    return wandb.Table(columns=[*COLUMNS], data=[_cells(row) for row in shown.rows])


def _cells(row: FeatureRow) -> list[Any]:
    tokens = (" ".join(row.fires_on), " ".join(row.raises))
    numbers = (row.index, row.density, row.max, row.alignment)
    return [*numbers, *tokens, f"{row.before}[[{row.at}]]{row.after}"]


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


def cache_artifact(settings: "RunSettings") -> "Artifact":
    """The activation cache that a run was trained on, by its address alone."""
    import wandb

    cache = str(settings.cache)
    address = cache if "://" in cache else str(Path(cache).absolute())
    # W&B tells versions of an artifact apart by their files, and here are none: the name does it.
    digest = xxhash.xxh3_64_hexdigest(address.encode())[:8]
    about = {key: value for key, value in settings.to_dict().items() if key in OF_A_CACHE}
    name = f"{_valid(Path(cache).name)}-{digest}"
    return wandb.Artifact(name, "dataset", metadata={"address": address, **about})


def _name(member: Member) -> str:
    name = member.name if member.group is None else f"{member.group}-{member.name}"
    return _valid(name)


def _valid(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[: LONGEST_NAME - len("eval-")] or "unnamed"


class NoAccount(Exception):
    """There is no API key."""


def default_entity() -> str | None:
    """The user or team of the API key, if it has one. `NoAccount` without a key."""
    import wandb
    from wandb.errors import UsageError

    wandb.setup(wandb.Settings(silent=True))  # silent: it would ask for a key
    try:
        api = wandb.Api(timeout=PATIENCE)
    except UsageError as error:
        raise NoAccount from error
    return api.default_entity
