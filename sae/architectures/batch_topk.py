"""The k largest pre-activations a token on average. Bussmann, Leask and Nanda 2024, "BatchTopK
Sparse Autoencoders" (arXiv 2412.06410).

In training, of a batch of n tokens:

    acts = relu(the n k largest of (x - b_dec) W_enc + b_enc in the whole batch, the others 0)
    loss = |x - x_hat|^2 + auxk_coeff * |error - what the dead features make of it|^2

Afterwards a token must not depend on its batch, so one threshold stands in for the choice: the mean
over batches of the smallest feature that was kept (their section 3).

    acts = pre * 1[pre > threshold],  pre = relu((x - b_dec) W_enc + b_enc)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from sae.architectures.topk import FixedL0Config
from sae.base import SAE, TrainingPass
from sae.codes import Codes, pad_rows, top_k

THRESHOLD_MEMORY = 0.99
"""Of the running mean of thresholds: the last hundred steps or so count."""


@dataclass(frozen=True, kw_only=True)
class BatchTopKConfig(FixedL0Config):
    """The BatchTopK dictionary; `k` is the mean number of features of a token."""

    architecture: ClassVar[str] = "batch_topk"
    chooses_over_the_batch: ClassVar[bool] = True

    def build(self, d_in: int, *, seed: int = 0) -> "BatchTopKSAE":
        return BatchTopKSAE(self, d_in, seed=seed)


Cfg = TypeVar("Cfg", bound=FixedL0Config, covariant=True)


class BatchTopK(SAE[Cfg]):
    """A dictionary that chooses features over the batch, and by a threshold afterwards."""

    threshold: Tensor
    """[d_sae], all the same: what a feature must exceed outside of training."""

    def __init__(self, cfg: Cfg, d_in: int, *, seed: int = 0) -> None:
        super().__init__(cfg, d_in, seed=seed)
        self.register_buffer("threshold", torch.zeros(cfg.d_sae))
        self.threshold_sum = torch.zeros(())
        self.threshold_weight = torch.zeros(())

    def offsets(self) -> list[Tensor]:
        return [*super().offsets(), self.threshold]

    def activate(self, pre_acts: Tensor) -> Tensor:
        return pre_acts.relu() * (pre_acts > self.threshold)

    def support(self, pre_acts: Tensor, slack: int = 1) -> Tensor:
        """The largest positive pre-activations of the batch, `k` times its tokens at most.

        Only those above half the running threshold are looked at; where they turn out to be too
        few, those above the least of the tokens' k-th largest. The choice is the same.
        """
        wanted = self.cfg.k * len(pre_acts)
        rows, features = (pre_acts > 0.5 * self.threshold[0]).nonzero(as_tuple=True)
        if len(rows) < wanted:
            least = top_k(pre_acts, min(self.cfg.k, pre_acts.shape[1]))[0].amin()
            rows, features = ((pre_acts >= least) & (pre_acts > 0)).nonzero(as_tuple=True)
        if len(rows) > wanted * slack:
            best = pre_acts[rows, features].topk(wanted * slack, sorted=False).indices
            kept = best.sort().values
            rows, features = rows[kept], features[kept]
        return pad_rows(rows, features, len(pre_acts))

    def nonlinearity(self, pre_acts: Tensor, features: Tensor | None = None) -> Tensor:
        if features is not None:
            return pre_acts.relu()
        chosen = self.support(pre_acts.detach())
        codes = Codes(chosen.clamp_min(0), (chosen >= 0).to(pre_acts.dtype), self.d_sae)
        return pre_acts.relu() * codes.dense()

    @torch.no_grad()
    def observe_(self, out: TrainingPass, is_good: Tensor | bool = True) -> None:
        """Average the smallest feature kept. The mean is of what was seen, from the first step."""
        acts = out.acts.values if isinstance(out.acts, Codes) else out.acts
        smallest = torch.where(acts > 0, acts, torch.inf).min()
        seen = smallest.isfinite() & is_good  # there was one, and it counts
        memory = torch.where(seen, THRESHOLD_MEMORY, 1.0)
        smallest = torch.where(seen, smallest, 0.0)
        self.threshold_sum = memory * self.threshold_sum.to(acts.device) + (1 - memory) * smallest
        self.threshold_weight = memory * self.threshold_weight.to(acts.device) + (1 - memory)
        self.threshold.fill_(self.threshold_sum / self.threshold_weight.clamp_min(1e-12))

    def training_state(self) -> dict[str, Any]:
        sums = {"threshold_sum": self.threshold_sum, "threshold_weight": self.threshold_weight}
        return {**super().training_state(), **sums}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        super().load_training_state(state)
        self.threshold_sum = state["threshold_sum"].to(self.device)
        self.threshold_weight = state["threshold_weight"].to(self.device)


class BatchTopKSAE(BatchTopK[BatchTopKConfig]):
    """The BatchTopK dictionary itself."""
