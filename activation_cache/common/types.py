"""Types that both packages share."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

Edit = Callable[[Tensor], Tensor]
"""Maps activations to what the model shall use instead."""

OnNaN = Literal["stop", "skip"]
"""What becomes of rows or batches that hold NaN or Inf: an `InputError`, or they are left out."""

Processing = Literal["raw", "centred"]
"""raw: as the model has them. centred: minus the mean over the width, at sites that hold the
residual stream or what is added to it, which is what TransformerLens' `center_writing_weights`
makes of models with layer norm."""
