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

CODECS: tuple[CodecName, ...] = ("float32", "bfloat16", "float16", "int8")


@dataclass(frozen=True)
class Encoded:
    """Rows as they are stored; `parts` are the tensors of one site in one shard, by name."""

    parts: dict[str, Tensor]

    @property
    def n_rows(self) -> int:
        return len(self.parts["values"])


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
        return Encoded({"values": values})
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
    return Encoded(
        {
            "values": values,
            "row_scale": row_scale,
            "channel_mean": mean,
            "channel_scale": scale,
        }
    )


def _refusal(rows: Float[Tensor, "rows width"], codec: CodecName, site: str) -> InputError:
    if not all_finite([rows]):
        return InputError(f"{site} holds NaN or Inf: give another --dtype, or mend the weights")
    limit = f"more than {codec} can"
    if codec in DTYPES:
        limit += f" ({torch.finfo(DTYPES[codec]).max:.6g})"
    others = "bfloat16 or float32" if codec == "float16" else "float32"
    return InputError(
        f"{site} holds {rows.abs().max().item():.6g}, {limit}: choose --codec {others}"
    )


def decoded_dtype(codec: CodecName) -> torch.dtype:
    """What rows are served as where nothing else is asked for."""
    return DTYPES.get(codec, torch.float32)


def decode_into(out: Float[Tensor, "rows width"], encoded: Encoded, start: int) -> None:
    """Decode as many rows as `out` has, from `start`, in the dtype of `out`."""
    rows = slice(start, start + len(out))
    values = encoded.parts["values"][rows]
    if "row_scale" not in encoded.parts:
        out.copy_(values)
        return
    x = values.to(torch.float32) * encoded.parts["row_scale"][rows]
    out.copy_(torch.addcmul(encoded.parts["channel_mean"], x, encoded.parts["channel_scale"]))


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
    return CodecCost(
        squared_error=_sum_of_squares(stored - original),
        squared_deviation=_sum_of_squares(original - original.mean(dim=0)),
    )


def _sum_of_squares(x: Float[Tensor, "rows width"]) -> float:
    """The same to the last bit however many threads there are, which torch does not promise."""
    return float(np.square(x.numpy()).sum())
