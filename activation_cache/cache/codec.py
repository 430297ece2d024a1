"""How rows are stored: as float32, bfloat16 or float16, or as int8 with scales."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_cache.common.dtypes import DTYPES
from activation_cache.common.errors import InputError
from activation_cache.common.finite import all_finite

CodecName = Literal["float32", "bfloat16", "float16", "int8"]
"""`int8` standardises every channel, then scales each row so that its largest entry is 127."""

Encoded = dict[str, Tensor]
"""Rows as they are stored: the tensors of one site in one shard, by the names of these parts."""


def encode(rows: Float[Tensor, "rows width"], codec: CodecName, site: str) -> Encoded:
    """Rows of one shard in the form that is written.

    Raises `InputError` where one holds NaN or Inf, or more than the codec can.

    `int8` keeps the mean and the scale of each channel over these rows (float32), and a factor for
    each row (float16): x = (values * row_scale) * channel_scale + channel_mean. A factor for each
    row spares the others what one outlying row needs; so does a scale that is the mean absolute
    deviation, which a few outliers move far less than a standard deviation.
    """
    if codec != "int8":
        values = rows.to(DTYPES[codec])
        if not all_finite([values]):
            raise _refusal(rows, codec, site)
        return {"values": values}
    x = rows.to(torch.float32)
    mean = x.mean(dim=0)
    x = x - mean
    scale = x.abs().mean(dim=0)
    scale = torch.where(scale > 0, scale, 1.0)  # a constant channel is its mean
    x /= scale
    row_scale = (x.abs().amax(dim=1, keepdim=True) / 127).to(torch.float16)
    row_scale.clamp_min_(torch.finfo(torch.float16).tiny)  # a row of means
    if not all_finite([mean, scale, row_scale]):  # as they all are where the rows are, and sums fit
        raise _refusal(rows, codec, site)
    values = (x / row_scale).round_().clamp_(-127, 127).to(torch.int8)
    return {"values": values, "row_scale": row_scale, "channel_mean": mean, "channel_scale": scale}


def _refusal(rows: Float[Tensor, "rows width"], codec: CodecName, site: str) -> InputError:
    if not all_finite([rows]):
        return InputError(f"{site} holds NaN or Inf: give another --dtype, or fix the weights")
    largest = rows.abs().max().item()
    others = "bfloat16 or float32" if codec == "float16" else "float32"
    return InputError(f"{site} holds {largest:.6g}, more than {codec} can: choose --codec {others}")


def decoded_dtype(codec: CodecName) -> torch.dtype:
    """What rows are served as where nothing else is asked for."""
    return DTYPES.get(codec, torch.float32)


def decode_into(out: Float[Tensor, "rows width"], encoded: Encoded, start: int) -> None:
    """Decode as many rows as `out` has, from `start`, in the dtype of `out`."""
    rows = slice(start, start + len(out))
    values = encoded["values"][rows]
    if "row_scale" in encoded:
        values = values.to(torch.float32) * encoded["row_scale"][rows]
        values = torch.addcmul(encoded["channel_mean"], values, encoded["channel_scale"])
    out.copy_(values)


@dataclass(frozen=True)
class CodecCost:
    """What storing rows in a codec loses: sums, so that shards can be added up."""

    squared_error: float = 0.0
    squared_deviation: float = 0.0
    """Of the rows from their mean, shard by shard."""

    @property
    def fvu(self) -> float:
        """The fraction of the rows' variance that is lost."""
        return self.squared_error / self.squared_deviation if self.squared_deviation else 0.0

    def __add__(self, other: "CodecCost") -> "CodecCost":
        return CodecCost(
            self.squared_error + other.squared_error,
            self.squared_deviation + other.squared_deviation,
        )


def measure_cost(
    rows: Float[Tensor, "rows width"], encoded: Encoded, *, sample_rows: int = 4096
) -> CodecCost:
    """Compare stored rows with the originals, on the first `sample_rows` of them, in float64."""
    original = rows[:sample_rows].to(torch.float64)
    stored = torch.empty_like(original)
    decode_into(stored, encoded, 0)
    deviation = original - original.mean(dim=0)
    return CodecCost(_sum_of_squares(stored - original), _sum_of_squares(deviation))


def _sum_of_squares(x: Float[Tensor, "rows width"]) -> float:
    """The same to the last bit however many threads there are, which torch does not promise."""
    return float(np.square(x.numpy()).sum())
