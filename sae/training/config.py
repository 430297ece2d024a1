"""How dictionaries are fitted."""

import math
from dataclasses import dataclass, field
from typing import Literal

from activation_cache.common.errors import InputError, refuse_below, refuse_not_positive
from activation_cache.common.schema import convert
from activation_cache.common.types import OnNaN
from sae.selection import Products
from sae.trainable import TrainableConfig
from sae.training.losses import LossReduction

CoefficientUnits = Literal["relative", "absolute"]
"""Relative ones are for inputs of mean norm 1, absolute ones for the units of training."""

Frozen = Literal["none", "decoder", "encoder"]
"""Which matrix of the weights is not trained. Biases and thresholds always are."""

SHORT_RUN = 1_600_000
"""Tokens below which a higher learning rate pays; above, it kills features for no better fit."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How dictionaries are fitted. Fractions are shares of the whole run."""

    n_tokens: int = field(default=500_000, metadata={"setting": None})
    """Activation vectors to train on; each is seen once unless the stream repeats."""
    lr: float | None = None
    """Peak learning rate of Adam (about 2e-3; settings.md has the formula). It is 2e-3, times
    sqrt(1536 / d_sae) for wider dictionaries, times sqrt(1.6M / n_tokens), at most 2, for shorter
    runs. Rows of the weights turn by at most 20 times as much a step, at every width of the
    inputs."""
    lr_warmup_fraction: float = 0.02
    """Share of the run in which the learning rate rises."""
    lr_decay_fraction: float = 0.3
    """Share of the run, at its end, in which the learning rate falls to 0."""
    penalty_warmup_fraction: float = 0.1
    """Share of the run in which L1 and L0 penalties rise to their weight."""
    clip_grad_norm: float | None = None
    """Clip the gradient of all parameters together to this norm (no clipping)."""
    clip_input_norm: float | None = 2.0
    """Scale massive activations down, to this many times the norm that 99 of 100 inputs have at
    most. A few tokens with hundreds of times the norm of others, which some models have, would
    else decide the training. Dictionaries are evaluated on inputs as they are."""
    loss_reduction: LossReduction = "sum_d"
    """Sum the squared error over d_in, or average it. With relative coefficients this only scales
    the whole loss."""
    normalise: bool = True
    """Scale inputs to a mean norm of sqrt(d_in) for training. The scale is folded into the
    result."""
    coefficient_units: CoefficientUnits = "relative"
    """Units of penalty coefficients and of the bandwidth. They are for inputs of mean norm 1
    (relative), so that they carry over between widths, or for those of training (absolute), as in
    SAELens and in older versions of this project."""
    products: Products = "float32"
    """Precision of matrix products. bfloat16 is faster where the hardware has it; weights and sums
    stay in float32. `screened` lets bfloat16 propose features, and float32 decide."""
    dead_after_tokens: int | None = None
    """A feature is dead after so many tokens without firing (n_tokens / 100; in runs of less than
    600,000 tokens 6,000, or n_tokens / 50 if that is less). At most 10M by default. A feature found
    dead late has no time left to learn."""
    on_nan: OnNaN = "stop"
    """What to do with a batch whose loss or gradient is NaN or Inf: end the training, or leave the
    batch out, a hundred times at most. The weights are unharmed either way."""
    init_tokens: int = 8192
    """First tokens of the stream, which set the scale and the decoder bias. They are trained on as
    well."""
    frozen: Frozen = "none"
    """Leave the decoder or the encoder as random as it starts. That is a twin, which learned
    nothing there: features that it has too are no evidence of what the dictionary learned."""
    seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
        convert(Products, self.products, "products")
        convert(CoefficientUnits, self.coefficient_units, "coefficient_units")
        convert(OnNaN, self.on_nan, "on_nan")
        convert(Frozen, self.frozen, "frozen")
        refuse_below(1, n_tokens=self.n_tokens, init_tokens=self.init_tokens)
        refuse_not_positive(
            lr=self.lr,
            clip_grad_norm=self.clip_grad_norm,
            clip_input_norm=self.clip_input_norm,
        )

    def learning_rate(self, d_sae: int) -> float:
        if self.lr is not None:
            return self.lr
        of_width = 2e-3 * min(1.0, math.sqrt(1536 / d_sae))
        return of_width * math.sqrt(min(4.0, max(1.0, SHORT_RUN / self.n_tokens)))

    def unit(self, d_in: int) -> float:
        """The mean norm that settings refer to, in the units of training."""
        is_scaled = self.normalise and self.coefficient_units == "relative"
        return math.sqrt(d_in) if is_scaled else 1.0

    def penalty_factor(self, power: int, d_in: int) -> float:
        """What a coefficient is multiplied by, of a penalty that grows by this power of the inputs'
        norm, beside a squared error."""
        if self.coefficient_units == "absolute":
            return 1.0
        factor = self.unit(d_in) ** (2 - power)
        return factor / d_in if self.loss_reduction == "mean_d" and power < 2 else factor

    @property
    def dead_window_tokens(self) -> int:
        if self.dead_after_tokens is not None:
            return self.dead_after_tokens
        of_short_run = min(6000, self.n_tokens // 50)
        return max(1, of_short_run, min(10_000_000, self.n_tokens // 100))

    def refuse_unfit(self, dictionary: TrainableConfig) -> None:
        """`InputError` for a screen of features whose number is not fixed, and for a half of tied
        weights that is to be frozen alone."""
        if self.frozen != "none" and dictionary.tied:
            raise InputError(
                f"frozen {self.frozen!r} needs weights of its own, and the encoder of a tied "
                f"dictionary is its decoder: leave out tied or frozen"
            )
        if self.products == "screened" and not dictionary.is_sparse_from_the_start:
            raise InputError(
                f"products 'screened' needs an architecture with a fixed number of features, and "
                f"{dictionary.architecture} has none: use float32 or bfloat16"
            )
