"""The curves of a training: which keys of a log row are drawn together, and where."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One small chart of the report; in Weights & Biases, a section has the panels of its name."""

    section: str
    title: str
    keys: tuple[str, ...]
    y_label: str
    log_y: bool = False


PANELS = (
    Panel("Loss", "Loss", ("loss", "mse"), "per token", log_y=True),
    Panel("Quality", "Unexplained variance", ("fvu",), "share of variance", log_y=True),
    Panel("Sparsity", "L0", ("l0",), "active features per token"),
    Panel("Sparsity", "Dead features", ("dead",), "features"),
    Panel(
        "Sparsity", "Penalty coefficient", ("l1_coeff", "l0_coeff"), "searched for the target L0"
    ),
    Panel("Loss", "L1 penalty", ("l1",), "per token"),
    Panel("Loss", "L0 penalty", ("l0_penalty",), "per token"),
    Panel("Loss", "AuxK loss", ("auxk",), "per token", log_y=True),
    Panel("Loss", "Learning rate", ("lr",), "step size"),
    Panel("Loss", "Gradient norm", ("grad_norm",), "before clipping"),
    Panel("train", "Spikes and skips", ("spikes", "skipped"), "batches so far"),
    Panel("Throughput", "Throughput", ("tokens_per_s",), "tokens per second"),
)

OTHERS = "train"
"""The section of keys that no panel names, such as the penalties of other architectures."""


def section_of(key: str) -> str:
    return next((panel.section for panel in PANELS if key in panel.keys), OTHERS)
