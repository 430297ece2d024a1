"""The record of a step of a training."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from activation_cache.common.numbers import Number


@dataclass(frozen=True)
class StepRecord:
    """What one optimiser step of one dictionary did. Tensors stay on the device until read."""

    dictionary: int
    """Position in the list that is being trained."""
    step: int
    n_tokens: int
    """Tokens seen, this batch included."""
    lr: float
    loss: Float[Tensor, ""]
    """What was minimised: all parts with their weights."""
    parts: dict[str, Float[Tensor, ""]]
    """The unweighted parts by name: mse, and l1, l0 or auxk where the architecture has them."""
    l0: Float[Tensor, ""]
    fvu: Float[Tensor, ""]
    """Of this batch, before the step. A figure to watch; the evaluator's is the one to report."""
    n_dead: int
    """Features that did not fire within the dead window, counted every few steps."""
    grad_norm: Float[Tensor, ""]
    spikes: Float[Tensor, ""]
    """Steps so far whose loss was three times its running mean."""
    skipped: Float[Tensor, ""]
    """Batches so far that changed nothing because their loss or gradient was not finite."""
    searched: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    """The penalty coefficient, by the name of its setting, where it is searched for a given L0."""

    def row(self) -> dict[str, Number]:
        """As numbers, by the names that metrics.jsonl has. The JumpReLU penalty, which is an L0
        too, has another name. Reading them waits for the device."""
        parts = {"l0_penalty" if name == "l0" else name: v for name, v in self.parts.items()}
        return {
            "step": self.step,
            "n_tokens": self.n_tokens,
            "loss": self.loss.item(),
            **{name: value.item() for name, value in parts.items()},
            "fvu": self.fvu.item(),
            "l0": self.l0.item(),
            "dead": self.n_dead,
            "lr": self.lr,
            "grad_norm": self.grad_norm.item(),
            "spikes": int(self.spikes),
            "skipped": int(self.skipped),
            **{name: value.item() for name, value in self.searched.items()},
        }
