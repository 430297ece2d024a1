"""Types that both packages share."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

Edit = Callable[[Tensor], Tensor]
"""Maps activations to what the model shall use instead."""

OnNaN = Literal["stop", "skip"]
"""What becomes of rows or batches that hold NaN or Inf: an `InputError`, or they are left out."""

Processing = Literal["raw", "centred", "folded_value_biases", "centred+folded_value_biases"]
"""raw: activations as the model has them. Otherwise as TransformerLens' foldings of its weights
leave them, each at the sites where it changes something:

centred               minus the mean over the width, at sites that hold the residual stream or what
                      is added to it (`center_writing_weights`, for models with layer norm)
folded_value_biases   minus what values owe to biases, those of the layer norm in front included, at
                      `attn.hook_v` and `attn.hook_z` (`fold_value_biases` with `fold_ln`)
"""


def foldings(processing: Processing) -> frozenset[str]:
    """The foldings that a processing consists of; none for raw."""
    return frozenset(processing.split("+")) - {"raw"}
