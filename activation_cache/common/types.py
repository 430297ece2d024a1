"""Types that both packages share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Bool, Int
from torch import Tensor

Edit = Callable[[Tensor], Tensor | None]
"""Maps activations to what the model shall use instead; None leaves them as they are."""


class TextBatch(NamedTuple):
    """Blocks of text, as an evaluation reads it."""

    tokens: Int[Tensor, "batch pos"]
    counted: Bool[Tensor, "batch pos"]
    """Which of them count in training and in every metric."""
    documents: Int[Tensor, "batch pos"] | None = None
    """The number of each token's document; None where that is not known."""


TextBatchLike = TextBatch | tuple[Int[Tensor, "_ _"], Bool[Tensor, "_ _"]]
"""What is taken for one."""


@dataclass
class Pass:
    """The forward pass that a model is in."""

    shape: tuple[int, int] = (0, 0)
    """Sequences, and tokens of each."""
    start: int = 0
    """Tokens of each in front of these, in the key-value cache."""
    present: Bool[Tensor, "batch pos"] | None = None
    """Which of them are tokens and no padding; None where all are."""


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
