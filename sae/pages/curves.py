"""The curves of a training: which keys of a log row are drawn together, and where."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small chart of the report; in Weights & Biases, a section has the panels of its name."""

    title: str
    keys: tuple[str, ...]
    y_label: str
    section: str
    log_y: bool = False


PANELS = (
    Panel(title="Loss", keys=("loss", "mse"), y_label="per token", section="Loss", log_y=True),
    Panel(
        title="Unexplained variance",
        keys=("fvu",),
        y_label="share of variance",
        section="Quality",
        log_y=True,
    ),
    Panel(title="L0", keys=("l0",), y_label="active features per token", section="Sparsity"),
    Panel(title="Dead features", keys=("dead",), y_label="features", section="Sparsity"),
    Panel(title="L1 penalty", keys=("l1",), y_label="per token", section="Loss"),
    Panel(title="L0 penalty", keys=("l0_penalty",), y_label="per token", section="Loss"),
    Panel(title="AuxK loss", keys=("auxk",), y_label="per token", section="Loss", log_y=True),
    Panel(title="Learning rate", keys=("lr",), y_label="step size", section="Loss"),
    Panel(title="Gradient norm", keys=("grad_norm",), y_label="before clipping", section="Loss"),
    Panel(
        title="Spikes and skips",
        keys=("spikes", "skipped"),
        y_label="batches so far",
        section="train",
    ),
    Panel(
        title="Throughput",
        keys=("tokens_per_s",),
        y_label="tokens per second",
        section="Throughput",
    ),
)

OTHERS = "train"
"""The section of keys that no panel names, such as the penalties of other architectures."""


def section_of(key: str) -> str:
    return next((panel.section for panel in PANELS if key in panel.keys), OTHERS)
