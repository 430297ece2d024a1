"""What is known of each feature of one dictionary, and the verdict on it."""
# Shapes: F = features of the dictionary.

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from activation_cache.common.errors import InputError

Verdict = Literal["stable", "subspace", "unstable", "duplicate", "in twins too", "dead"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """From where on something counts.

    The first two say "more than half": at a cosine of 0.7 two directions share half of their
    squared norm, and at a correlation of 0.7 two activations half of their variance. On planted
    truth nothing that is not planted comes near: tests/analysis/test_stability.py has the gap.
    """

    decoder_cosine: float = 0.7
    """Of a feature with its partner in another seed, to reappear there."""
    activation_correlation: float = 0.7
    """Of their activations, to reappear; and with a twin's feature, to be in the twin too."""
    min_share: float = 0.5
    """Of the other seeds, or of the twins."""
    duplicate_cosine: float = 0.9
    """Of two features of one dictionary. Rows so near share four fifths of their squared norm."""
    axis_cosine: float = 0.95
    """Up to this cosine with the nearest row of another seed, about 18 degrees, a feature may count
    as rotated there: above, the axis itself reappears."""
    span_cosine: float = 0.9
    """With the span of a few rows of another seed, to lie in it."""
    explained_rest: float = 0.5
    """Of what the nearest row leaves of a feature, the share that the rest of the span explains."""
    subspace_dim: int = 3
    """Rows of another seed that span a feature, at most."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "subspace_dim":
                if value < 2:
                    raise InputError(f"subspace_dim must be at least 2, got {value}")
            elif not 0 < value <= 1:
                raise InputError(f"{name} must lie in (0, 1], got {value}")


@dataclass(frozen=True, kw_only=True)
class FeatureStability:
    """Each feature of a dictionary. Over seeds: the dictionaries other than its own."""

    reappears: Float[Tensor, " F"]
    """Share of the other seeds in which its partner is like it, by decoder and by activation."""
    matched_cosine: Float[Tensor, " F"]
    """Decoder cosine with its partner, mean over the other seeds."""
    matched_correlation: Float[Tensor, " F"]
    """Correlation of its activation with its partner's, mean over the other seeds."""
    nearest_twin: Float[Tensor, " F"]
    """Largest decoder cosine with any feature of any twin. NaN without twins, as all of twins."""
    twin_correlation: Float[Tensor, " F"]
    """Largest correlation of its activation with that of a twin's feature. Of each twin two are
    looked at: the nearest by decoder, and the nearest by encoder, since a twin whose decoder is
    frozen may detect what it cannot write."""
    in_twins: Float[Tensor, " F"]
    """Share of the twins that have a feature which is active as it is, whatever its decoder row."""
    decoder_margin: Float[Tensor, " F"]
    """`matched_cosine` - `nearest_twin`: one partner a seed against the best of all twins."""
    activation_margin: Float[Tensor, " F"]
    """`matched_correlation` - `twin_correlation`."""
    reconstruction_margin: Float[Tensor, " F"]
    """Along its direction, on the tokens where it is active: the share of variance that the best
    twin as a whole leaves unexplained, minus the share that the dictionary does."""
    removal_loss: Float[Tensor, " F"]
    """By how much FVU grows when its contribution alone is left out; below 0 it does harm."""
    variance_share: Float[Tensor, " F"]
    """Of the variance of the reconstruction: sums to 1 over the dictionary."""
    nearest_in_dictionary: Float[Tensor, " F"]
    """Largest decoder cosine with another feature of its own dictionary."""
    nearest_index: Int[Tensor, " F"]
    """Which feature that is."""
    duplicate: Bool[Tensor, " F"]
    """Whether that is near enough, and ever active. All copies are called so: none is the
    original, and one of them at most has a partner in a seed that has the feature once."""
    in_subspace: Bool[Tensor, " F"]
    """Whether it reappears in fewer than `min_share` of the other seeds as an axis, and in as many
    when those count too that span it with rotated axes (`subspaces`)."""
    fires: Int[Tensor, " F"]
    """Tokens on which it is active."""
    verdict: list[Verdict]
    """The first that holds of dead, in twins too, duplicate, stable, subspace; else unstable."""

    def where(self, *verdicts: Verdict) -> Bool[Tensor, " F"]:
        """The features with one of these verdicts."""
        return torch.tensor([its in verdicts for its in self.verdict], dtype=torch.bool)


def verdicts(
    *,
    fires: Int[Tensor, " F"],
    in_twins: Float[Tensor, " F"],
    duplicate: Bool[Tensor, " F"],
    axis_reappears: Float[Tensor, " F"],
    in_subspace: Bool[Tensor, " F"],
    min_share: float,
) -> list[Verdict]:
    """One for each feature. A stable feature reappears as an axis: in seeds where it is rotated in
    a subspace it does not, however near one of the axes there happens to lie."""
    names: list[Verdict] = ["unstable"] * len(fires)
    weaker_first: list[tuple[Verdict, Tensor]] = [
        ("subspace", in_subspace),
        ("stable", axis_reappears >= min_share),
        ("duplicate", duplicate),
        ("in twins too", in_twins >= min_share),
        ("dead", fires == 0),
    ]
    for verdict, holds in weaker_first:
        for feature in holds.nonzero().flatten().tolist():
            names[feature] = verdict
    return names
