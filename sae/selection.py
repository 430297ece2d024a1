"""Which features of a token can matter, found without keeping what the others are.

The encoder's product is the one dense piece of a sparse step. It is taken a few tokens at a time,
in low precision where asked for, and only the pre-activations of the support leave this file.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sae.codes import Codes
from sae.kernels import ByFeature, dot_rows

NEVER_ACTIVE = -1e30
"""The pre-activation of padding: finite, so that 0 times it is 0."""

PRE_ACTS_AT_ONCE = {"cpu": 2**25, "cuda": 2**28, "mps": 2**26}
"""Pre-activations that are in memory at one time: 128 MB in float32; 1 GB on a GPU."""

SLACK = 2
"""Times as many features as are wanted that a screen proposes."""

Products = Literal["float32", "bfloat16", "screened"]
"""What dense products are taken in. Weights, sums and all else stay in float32.

Of a screened encoder, bfloat16 only proposes features, and float32 has the last word: for
architectures that want a fixed number of features.
"""

Support = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""From pre-activations [batch, n] and a slack, the indices of features [batch, k], -1 for none, and
their pre-activations."""


class Shadow:
    """The encoder in bfloat16, with the bias as one more column; its memory is kept between steps.

    A product with a bias writes all pre-activations twice, and new memory for every step costs as
    much as filling it.
    """

    PADDING = 8
    """Columns after the weights: the bias, and as many zeros as make rows begin at 16 bytes."""

    def __init__(self) -> None:
        self._rows = torch.empty(0)

    def of(self, rows: Tensor, bias: Tensor) -> Tensor:
        """[d_sae, d_in + PADDING]; what was made of other weights before is overwritten."""
        d_sae, d_in = rows.shape
        if self._rows.shape != (d_sae, d_in + self.PADDING) or self._rows.device != rows.device:
            width = d_in + self.PADDING
            self._rows = torch.zeros(d_sae, width, dtype=torch.bfloat16, device=rows.device)
        self._rows[:, :d_in] = rows
        self._rows[:, d_in] = bias
        return self._rows

    def of_inputs(self, x: Tensor) -> Tensor:
        """[batch, d_in + PADDING], to multiply with."""
        columns = F.pad(x.to(torch.bfloat16), (0, self.PADDING))
        columns[:, x.shape[1]] = 1.0
        return columns


@torch.no_grad()
def select(
    x: Float[Tensor, "batch d_in"],
    rows: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    support: Support,
    shadow: Shadow,
    *,
    products: Products,
    in_parts: bool,
) -> Codes:
    """The support of each token with its pre-activations x @ rows.T + bias; padding comes last.

    `in_parts` is for supports that look at one token alone. A screen proposes `SLACK` times as many
    features as are wanted, and misses one only if rounding ranks it below all of these.
    """
    slack = SLACK if products == "screened" else 1
    n_parts = math.ceil(len(x) * len(rows) / PRE_ACTS_AT_ONCE[x.device.type]) if in_parts else 1
    if products == "float32":
        found = _proposed(x, partial(F.linear, weight=rows, bias=bias), support, slack, n_parts)
    else:
        product = partial(F.linear, weight=shadow.of(rows, bias))
        found = _proposed(shadow.of_inputs(x), product, support, slack, n_parts)
    features, values = found
    values = values.to(x.dtype)
    if products == "screened":
        values = dot_rows(features.clamp_min(0), x, rows) + bias[features]
    values = values.masked_fill(features < 0, NEVER_ACTIVE)
    if products == "screened":
        chosen, values = support(values, 1)
        values = values.masked_fill(chosen < 0, NEVER_ACTIVE)
        features = features.gather(1, chosen.clamp_min(0)).masked_fill(chosen < 0, -1)
    is_padding, features = features < 0, features.clamp_min(0)
    # How many entries of a row are no padding is worth knowing on a CPU, and makes a GPU wait.
    knows_sizes = features.device.type == "cpu" and bool(is_padding.any())
    sizes = (~is_padding).sum(dim=1) if knows_sizes else None
    return Codes(features, values, len(rows), ByFeature(features, len(rows), sizes))


def _proposed(
    x: Tensor, product: Callable[[Tensor], Tensor], support: Support, slack: int, n_parts: int
) -> tuple[Tensor, Tensor]:
    """The support by these products, -1 for none, and its pre-activations."""
    indices: list[Tensor] = []
    values: list[Tensor] = []
    for tokens in x.chunk(max(1, n_parts)):
        for found, part in zip((indices, values), support(product(tokens), slack), strict=True):
            found.append(part)
    width = max(part.shape[1] for part in indices)
    return _padded(indices, width), _padded(values, width)


def _padded(parts: list[Tensor], width: int) -> Tensor:
    return torch.cat([F.pad(part, (0, width - part.shape[1]), value=-1) for part in parts])
