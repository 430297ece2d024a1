"""The k largest pre-activations of each token. Gao et al. 2024, "Scaling and evaluating sparse
autoencoders" (arXiv 2406.04093).

    acts = relu(the k largest of (x - b_dec) W_enc + b_enc, the others 0)
    loss = |x - x_hat|^2 + auxk_coeff * |error - what the dead features make of it|^2
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from activation_cache.common.errors import InputError
from sae.codes import Codes, top_k
from sae.trainable import Entries, Penalties, TrainableConfig, TrainableSAE


@dataclass(frozen=True, kw_only=True)
class FixedL0Config(TrainableConfig):
    """What dictionaries whose number of active features is chosen have in common."""

    is_sparse_from_the_start: ClassVar[bool] = True

    k: int = 32
    """Active features per token. Those that are not positive count as inactive."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= self.d_sae:
            raise InputError(f"k must be in 1..d_sae ({self.d_sae}), got {self.k}")

    @property
    def initial_l0(self) -> float:
        return self.k


@dataclass(frozen=True, kw_only=True)
class TopKConfig(FixedL0Config):
    """The TopK dictionary."""

    architecture: ClassVar[str] = "topk"
    title: ClassVar[str] = "TopK"
    sparse_by: ClassVar[str] = "the k largest features of each token"
    activation = "topk"

    def build(self, d_in: int, *, seed: int = 0) -> "TopKSAE":
        return TopKSAE(self, d_in, seed=seed)


class TopKSAE(TrainableSAE[TopKConfig]):
    def activate(self, pre_acts: Tensor) -> Codes:
        values, indices = top_k(pre_acts, self.cfg.k)
        return Codes(indices, values.relu(), self.d_sae)

    def support(self, pre_acts: Tensor, slack: int = 1) -> tuple[Tensor, Tensor]:
        values, indices = top_k(pre_acts, min(self.cfg.k * slack, pre_acts.shape[1]))
        return indices, values

    def activate_entries(self, entries: Entries, target: Tensor) -> tuple[Tensor, Penalties]:
        return entries.pre_acts.relu(), {}
