"""The running mean of a number that some batches do not have."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MEMORY = 0.99
"""The last hundred steps or so count."""


class RunningMean:
    """The mean of what was seen, from the first step, with no pull towards 0."""

    def __init__(self, device: torch.device) -> None:
        self.sum = torch.zeros((), device=device)
        self.weight = torch.zeros((), device=device)

    @property
    def value(self) -> Float[Tensor, ""]:
        return self.sum / self.weight.clamp_min(1e-12)

    @torch.no_grad()
    def update(self, value: Float[Tensor, ""], counts: Bool[Tensor, ""]) -> None:
        """Take note of a value, unless it is not finite or does not count."""
        seen = value.isfinite() & counts
        memory = torch.where(seen, MEMORY, 1.0)
        self.sum = memory * self.sum + (1 - memory) * torch.where(seen, value, 0.0)
        self.weight = memory * self.weight + (1 - memory)
