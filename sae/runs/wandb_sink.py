"""Weights & Biases: a mirror of metrics.jsonl that a run does not need. Imported here alone."""

import os
from pathlib import Path
from typing import Any, Literal

from sae.runs.sinks import Row

Mode = Literal["offline", "online"]

SECTIONS = {
    "Loss": ("loss", "mse", "l1", "l0_penalty", "auxk", "lr", "grad_norm"),
    "Sparsity": ("l0", "dead"),
    "Quality": ("fvu",),
    "Throughput": ("tokens_per_s",),
}
"""Panels of the dashboard, by the rows' names; what is in none of them goes to `train`."""

LOWER_IS_BETTER = ("eval/delta_ce", "eval/fvu", "eval/kl")


def default_mode() -> Mode:
    """Online where an API key is set, else offline."""
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


class WandBSink:
    """One W&B run. The x-axis of every panel is the number of tokens seen."""

    def __init__(
        self, folder: Path, mode: Mode, settings: dict[str, Any], name: str, group: str | None
    ) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project="featureloom",
            name=name,
            group=group,
            dir=str(folder),
            mode=mode,
            reinit="create_new",  # the runs of other dictionaries stay open beside it
            config=settings,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self._run.define_metric("train/tokens")
        self._run.define_metric("*", step_metric="train/tokens")
        for metric in LOWER_IS_BETTER:
            self._run.define_metric(metric, step_metric="train/tokens", summary="min")
        self._tokens = 0.0

    def log(self, row: Row) -> None:
        self._tokens = row["n_tokens"]
        named = {_panel(key): value for key, value in row.items() if key != "n_tokens"}
        self._run.log({**named, "train/tokens": self._tokens})

    def finish(self, metrics: Row) -> None:
        named = {f"eval/{key}": value for key, value in metrics.items()}
        self._run.log({**named, "train/tokens": self._tokens})

    def close(self) -> None:
        self._run.finish()


def _panel(key: str) -> str:
    section = next((name for name, keys in SECTIONS.items() if key in keys), "train")
    return f"{section}/{key}"
