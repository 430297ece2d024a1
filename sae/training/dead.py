"""Which features have stopped firing. What gets them back is the AuxK loss (`losses`)."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class FiringTracker:
    """Tokens since each feature last fired. A feature is dead after `dead_after_tokens` of them."""

    def __init__(self, d_sae: int, dead_after_tokens: int, device: torch.device) -> None:
        self.dead_after_tokens = dead_after_tokens
        self.tokens_since_fired = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def update(self, fires: Int[Tensor, " d_sae"], batch_tokens: int | Int[Tensor, ""]) -> None:
        self.tokens_since_fired += batch_tokens
        self.tokens_since_fired.masked_fill_(fires > 0, 0)

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        return self.tokens_since_fired >= self.dead_after_tokens
