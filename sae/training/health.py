"""Losses that jump, and batches that nothing finite can be learned from."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.types import OnNaN

SPIKE = 3.0
"""Times the running mean from which a loss counts as a spike."""
MEMORY = 0.99
"""Of the running mean of the loss: the last hundred steps or so count."""
SETTLED_STEPS = 100
"""Steps before which the mean is not meaningful."""
MOST_SKIPPED = 100
"""Batches that may be skipped in one training."""


class NotFinite(InputError):
    """A training that cannot continue: its loss or its gradient is NaN or Inf."""


class Health:
    """Counts the spikes and the skipped batches of one training without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self.loss_mean = torch.zeros((), device=device)
        self.n_spikes = torch.zeros((), device=device)
        self.n_skipped = torch.zeros((), device=device)
        self.n_seen = torch.zeros((), device=device)
        self.n_skipped_known = 0

    @torch.no_grad()
    def see(self, loss: Float[Tensor, ""], is_good: Bool[Tensor, ""]) -> None:
        """Take note of a step; of one that is not good, only that it was skipped."""
        self.n_skipped += ~is_good
        jump = torch.where(is_good, loss - self.loss_mean, 0.0)
        is_spike = jump > (SPIKE - 1) * self.loss_mean
        self.n_spikes += is_spike & is_good & (self.n_seen >= SETTLED_STEPS)
        self.n_seen += is_good
        # The weights make it the mean of what was seen, from the first step, with no pull towards 0
        self.loss_mean += jump * (1 - MEMORY) / (1 - MEMORY ** self.n_seen.clamp(min=1))

    def has_new_skips(self, on_nan: OnNaN) -> bool:
        """Whether batches were skipped since this was asked last that should not have been."""
        n_skipped, before = int(self.n_skipped), self.n_skipped_known
        self.n_skipped_known = n_skipped
        return n_skipped > before and (on_nan == "stop" or n_skipped > MOST_SKIPPED)

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.loss_mean.device
        for name, value in state.items():
            its_own = value.to(device, copy=True) if isinstance(value, Tensor) else value
            setattr(self, name, its_own)


def not_finite(
    x: Float[Tensor, "batch d"],
    where: str,
    loss: Float[Tensor, ""],
    grad_norm: Float[Tensor, ""],
    on_nan: OnNaN,
) -> NotFinite:
    """The error with where it was, and which row of the batch is the likeliest cause."""
    remedy = "lower --lr, or leave such batches out with --on-nan skip"
    if on_nan == "skip":
        remedy = f"more than {MOST_SKIPPED} batches were left out: lower --lr, or fix the stream"
    norms = torch.linalg.vector_norm(x.float(), dim=1).nan_to_num(nan=torch.inf)
    return NotFinite(
        f"training is not finite at {where}: loss {loss.item():.4g}, gradient "
        f"{grad_norm.item():.4g}; row {int(norms.argmax())} of the batch has the norm "
        f"{norms.max().item():.3g}, others {norms.median().item():.3g}; {remedy}"
    )
