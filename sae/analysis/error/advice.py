"""What makes the headline of a split trivial, in sentences."""

from collections.abc import Iterator

from activation_cache.common.numbers import format_number
from sae.analysis.error.numbers import SplitNumbers

TOKENS_PER_DIMENSION = 50
"""A map fitted to noise explains one part in this many of it, on the tokens it was fitted on."""
LEAST_R2 = 0.05
"""Below it there is no linear part that would have to be explained away."""


def warnings_for(
    test: SplitNumbers, *, shrinkage: float, d: int, n_fit_tokens: int
) -> Iterator[str]:
    """A sentence for each reason not to read `r2` of the test side as the paper does."""
    if test.fvu > 0.9:
        yield (
            f"the dictionary reconstructs next to nothing (FVU {format_number(test.fvu)}): its "
            f"error is nearly x itself, which x predicts trivially"
        )
    if test.r2_pooled > LEAST_R2 and test.r2_shrinkage_pooled > test.r2_pooled / 2:
        yield (
            f"the error is mostly x times {format_number(shrinkage)}: one number for all "
            f"dimensions explains R2 {format_number(test.r2_shrinkage_pooled)} of the "
            f"{format_number(test.r2_pooled)} (pooled) that x explains, which any dictionary gives "
            f"that is dead, too small or of a large FVU (here {format_number(test.fvu)})"
        )
    if test.r2_pooled > LEAST_R2 and test.r2_from_x_hat_pooled > test.r2_pooled / 2:
        yield (
            f"the dictionary's own output explains R2 "
            f"{format_number(test.r2_from_x_hat_pooled)} of its error (pooled; x explains "
            f"{format_number(test.r2_pooled)}): a linear map of that output would "
            f"remove as much"
        )
    if n_fit_tokens < TOKENS_PER_DIMENSION * d:
        yield (
            f"the map of {d:,} dimensions was fitted on {n_fit_tokens:,} tokens, fewer than "
            f"{TOKENS_PER_DIMENSION} for each dimension ({TOKENS_PER_DIMENSION * d:,}): the "
            f"held-out numbers understate the linear part; give more tokens"
        )
