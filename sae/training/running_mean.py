"""The running mean of a number that some batches do not have."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LONGEST_MEMORY = 100
"""Steps that count: the last twentieth of all, and this many at most."""
SHARE = 0.05


class RunningMean:
    """The mean of what was seen lately, with no pull towards 0.

    A training changes fast at first, and of a short one the first steps are many: so the shorter it
    has lasted, the fewer steps count.
    """

    def __init__(self, device: torch.device) -> None:
        self.sum = torch.zeros((), device=device)
        self.weight = torch.zeros((), device=device)
        self.share: float | None = SHARE
        """None in a run that an older version began: there a hundred steps counted from the first
        on."""

    @property
    def value(self) -> Float[Tensor, ""]:
        return self.sum / self.weight.clamp_min(1e-12)

    @torch.no_grad()
    def update(self, value: Float[Tensor, ""], counts: Bool[Tensor, ""], n_steps: int) -> None:
        """Take note of a value, unless it is not finite or does not count, after so many steps."""
        seen = value.isfinite() & counts
        length = LONGEST_MEMORY if self.share is None else self.share * n_steps
        length = min(LONGEST_MEMORY, max(1.0, length))
        memory = torch.where(seen, 1 - 1 / length, 1.0)
        self.sum = memory * self.sum + (1 - memory) * torch.where(seen, value, 0.0)
        self.weight = memory * self.weight + (1 - memory)
