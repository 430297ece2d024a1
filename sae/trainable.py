"""What an architecture adds to a dictionary so that it can be trained: pure functions of weights.

A training step is entry by entry: an entry is a feature of a token with its pre-activation. Sparse
steps have the entries of the `support` alone, the dense reference has all; an architecture need not
know which. All that changes over a training beside the weights is the trainer's (`sae.training`).
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from activation_cache.common.errors import refuse_below, refuse_not_positive
from sae.base import SAE, SAEConfig
from sae.codes import Codes, indices_of
from sae.kernels import ByFeature, sum_rows

Penalties = dict[str, Float[Tensor, ""]]
"""By the names of `TrainableConfig.coefficients`: sums over features, means over the batch."""

TYPICAL_L0 = 32
"""What a dictionary is expected to end at, where its settings do not say."""


@dataclass(frozen=True, kw_only=True)
class TrainableConfig(SAEConfig):
    """What the configs of architectures that can be trained have in common."""

    title: ClassVar[str] = ""
    """On pages; by default the name."""
    sparse_by: ClassVar[str] = ""
    """What makes the features sparse, for the table in the documentation."""
    activation: ClassVar[Literal["relu", "jumprelu", "topk", "gated"] | None] = None
    """How a finished dictionary encodes, if other projects have a word for it: it can then be
    written for them."""
    is_sparse_from_the_start: ClassVar[bool] = False
    """Whether few features are active however the weights are: their number is fixed."""
    chooses_over_the_batch: ClassVar[bool] = False
    """Whether the features of a token depend on the other tokens of a training batch."""
    powers: ClassVar[Mapping[str, int]] = {}
    """By which power of the inputs' norm a penalty grows, where that is not the square: the first
    for a sum of features, none for a count. So coefficients can be the same at every width."""
    has_gain: ClassVar[bool] = True
    """Whether a tied encoder is the decoder's transpose times a number that is trained."""

    auxk_coeff: float = 1 / 2
    """Weight of the AuxK loss, 0 for none. Dead features reconstruct what is left of the error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(0, auxk_coeff=self.auxk_coeff)

    @property
    def initial_l0(self) -> float:
        """Features of a token that are active at first: more than in the end, and few of all."""
        return 2.0 * TYPICAL_L0

    @property
    def coefficients(self) -> Mapping[str, float]:
        """The weight of each penalty that is added to the reconstruction loss."""
        return {"auxk": self.auxk_coeff}

    @abstractmethod
    def build(self, d_in: int, *, seed: int = 0) -> "TrainableSAE[Any]": ...


@dataclass(frozen=True, kw_only=True)
class PenalisedConfig(TrainableConfig):
    """What dictionaries have in common that are as sparse as a penalty makes them."""

    penalty: ClassVar[str]
    """Which of the penalties. Its coefficient is the setting of that name with `_coeff`."""

    target_l0: float | None = None
    """Search the penalty coefficient that gives this L0. It starts from the coefficient that is
    set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_not_positive(target_l0=self.target_l0)
        refuse_below(0, **{f"{self.penalty}_coeff": self.penalty_coeff})

    @property
    def penalty_coeff(self) -> float:
        return getattr(self, f"{self.penalty}_coeff")

    @property
    def initial_l0(self) -> float:
        return 2.0 * (self.target_l0 or TYPICAL_L0)

    @property
    def coefficients(self) -> Mapping[str, float]:
        return {**super().coefficients, self.penalty: self.penalty_coeff}


@dataclass(frozen=True)
class Entries:
    """Pre-activations of some features of each token, or of all of them in the dense reference."""

    pre_acts: Float[Tensor, "batch k"]
    features: ByFeature | None = None
    """Which features; None for all, in order."""

    def of(self, vector: Float[Tensor, " d_sae"]) -> Float[Tensor, "batch k"]:
        """For each entry the element that belongs to its feature."""
        if self.features is None:
            return vector.expand_as(self.pre_acts)
        indices = self.features.indices
        return vector.index_select(0, indices.flatten()).view_as(indices)

    def sum_rows(
        self, values: Float[Tensor, "batch k"], table: Tensor, first: int | None = None
    ) -> Float[Tensor, "batch d"]:
        """The rows of `table` [d_sae, d], each times the value of its entry; of the features below
        `first` alone, if that is given."""
        if self.features is None:
            return values[:, :first] @ table[:first]
        if first is not None:
            values = values * (self.features.indices < first)
        return sum_rows(self.features, values, table)

    def acts(self, values: Float[Tensor, "batch k"], d_sae: int) -> Tensor | Codes:
        """These values as the features of a training pass."""
        if self.features is None:
            return values
        return Codes(self.features.indices, values, d_sae, self.features)


@dataclass(frozen=True)
class TrainingPass:
    """What the losses need of one batch, in the units that the dictionary is trained in."""

    x: Float[Tensor, "batch d_in"]
    target: Float[Tensor, "batch d_in"]
    """What is to be reconstructed: x itself, of an autoencoder."""
    x_hat: Float[Tensor, "batch d_in"]
    acts: Float[Tensor, "batch d_sae"] | Codes
    penalties: Penalties


Cfg = TypeVar("Cfg", bound=TrainableConfig, covariant=True)


class TrainableSAE(SAE[Cfg]):
    """A dictionary of an architecture that is trained here.

    While it is trained its inputs are brought to a mean norm of about sqrt(d_in), and its offsets
    are in these units.
    """

    def __init__(self, cfg: Cfg, d_in: int, *, seed: int = 0) -> None:
        super().__init__(cfg, d_in, seed=seed)
        if cfg.tied and cfg.has_gain:
            self.gain = nn.Parameter(torch.ones(()))
        self.is_fresh = True
        """Whether the weights are random still."""
        self.unit = 1.0
        """In the units of training, the mean norm that settings refer to: the trainer sets it."""

    def support(
        self, pre_acts: Float[Tensor, "batch n"], slack: int = 1
    ) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
        """The features of each token that can be active or can have a gradient, -1 for none, with
        their pre-activations.

        Where their number is fixed, `slack` asks for that many times as many.
        """
        return chosen(pre_acts, pre_acts > 0)

    @abstractmethod
    def activate_entries(
        self, entries: Entries, target: Float[Tensor, "batch d_in"]
    ) -> tuple[Float[Tensor, "batch k"], Penalties]:
        """The activations of a training step entry by entry, and what the architecture is trained
        to keep small beside the error, unweighted."""

    def offsets(self) -> list[Tensor]:
        """The parameters and buffers that are measured in the units of the input."""
        return [self.b_enc, self.b_dec]

    @property
    def row_rate(self) -> float:
        """What the learning rate of the rows of the weights is multiplied by."""
        return 1.0

    def offset_rates(self) -> Mapping[str, float]:
        """The offsets, by their names, whose learning rate grows with the norm of the inputs, and
        what it is multiplied by beside."""
        return {}

    @torch.no_grad()
    def let_through_(self, level: float) -> None:
        """Make features active whose product with the encoder exceeds `level`, of one whose
        offsets are 0. Nothing to do where their number is fixed."""
        self.b_enc.fill_(-level)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Bring parameters that left their range back, after a step. Decoder rows are not meant."""

    def statistic(self, acts: Tensor | Codes) -> Float[Tensor, ""] | None:
        """A number of a training batch whose running mean the dictionary needs afterwards; NaN or
        infinite where this batch has none. None for an architecture without such a number."""
        return None

    @torch.no_grad()
    def set_statistic_(self, mean: Float[Tensor, ""]) -> None:
        """Take the running mean of `statistic`."""


def chosen(
    pre_acts: Float[Tensor, "batch n"], mask: Bool[Tensor, "batch n"]
) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    """The entries where the mask is true, as `support` gives them."""
    return with_values(pre_acts, indices_of(mask))


def with_values(
    pre_acts: Float[Tensor, "batch n"], indices: Int[Tensor, "batch k"]
) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    return indices, pre_acts.gather(1, indices.clamp_min(0))
