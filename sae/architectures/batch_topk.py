"""The k largest pre-activations a token on average. Bussmann, Leask and Nanda 2024, "BatchTopK
Sparse Autoencoders" (arXiv 2412.06410).

In training, of a batch of n tokens:

    acts = relu(the n k largest of (x - b_dec) W_enc + b_enc in the whole batch, the others 0)
    loss = |x - x_hat|^2 + auxk_coeff * |error - what the dead features make of it|^2

Afterwards a token must not depend on its batch, so one threshold stands in for the choice: the mean
over the last batches of the smallest feature that was kept (their section 3).

    acts = pre * 1[pre > threshold],  pre = relu((x - b_dec) W_enc + b_enc)
"""

from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from sae.architectures.topk import FixedL0Config
from sae.codes import Codes, pad_rows, top_k
from sae.trainable import Entries, Penalties, TrainableSAE, with_values


@dataclass(frozen=True, kw_only=True)
class BatchTopKConfig(FixedL0Config):
    """The BatchTopK dictionary; `k` is the mean number of features of a token."""

    architecture: ClassVar[str] = "batch_topk"
    title: ClassVar[str] = "BatchTopK"
    sparse_by: ClassVar[str] = "the k largest features of each token on average"
    activation = "jumprelu"
    chooses_over_the_batch: ClassVar[bool] = True

    def build(self, d_in: int, *, seed: int = 0) -> "BatchTopKSAE":
        return BatchTopKSAE(self, d_in, seed=seed)


Cfg = TypeVar("Cfg", bound=FixedL0Config, covariant=True)


class BatchTopK(TrainableSAE[Cfg]):
    """A dictionary that chooses features over the batch, and by a threshold afterwards."""

    threshold: Tensor
    """[d_sae], all the same: what a feature must exceed outside of training."""

    def __init__(self, cfg: Cfg, d_in: int, *, seed: int = 0) -> None:
        super().__init__(cfg, d_in, seed=seed)
        self.register_buffer("threshold", torch.zeros(cfg.d_sae))

    def activate(self, pre_acts: Tensor) -> Tensor:
        return pre_acts.relu() * (pre_acts > self.threshold)

    def offsets(self) -> list[Tensor]:
        return [*super().offsets(), self.threshold]

    def support(self, pre_acts: Tensor, slack: int = 1) -> tuple[Tensor, Tensor]:
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
        return with_values(pre_acts, pad_rows(rows, features, len(pre_acts)))

    def activate_entries(self, entries: Entries, target: Tensor) -> tuple[Tensor, Penalties]:
        return entries.pre_acts.relu(), {}

    def statistic(self, acts: Tensor | Codes) -> Tensor:
        """The smallest feature of a batch that was kept: its mean is the threshold."""
        values = acts.values if isinstance(acts, Codes) else acts
        return torch.where(values > 0, values, torch.inf).min()

    @torch.no_grad()
    def set_statistic_(self, mean: Tensor) -> None:
        self.threshold.fill_(mean)


class BatchTopKSAE(BatchTopK[BatchTopKConfig]):
    """The BatchTopK dictionary itself."""
