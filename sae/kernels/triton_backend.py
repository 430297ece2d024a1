"""The backend of Triton kernels, for CUDA.

A program takes a token (or a feature) and a block of columns. It reads ROWS rows at once, each 16
bytes per thread, sums them in float32 and writes its result once. No atomics, so the order of every
sum is the same every time. Tokens are the fastest axis of the grid: at any time the GPU works on
one block of columns, and the table's share of that may be small enough to stay in its cache.

k and d are arguments, not constants of the kernel, so that a k that is another for every batch does
not have it compiled again. Offsets are int64, since n * d may exceed 2**31.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
# PyTorch brings Triton along for CUDA; where types are checked it need not be installed, and that
# a kernel takes its grid in brackets is then not known.

from math import ceil
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sae.kernels.contract import ByFeature

ROWS = 8
"""Rows that a program reads at once."""
WARPS = 1
"""Warps of a program. With two, ptxas saves registers for the sake of occupancy, and reads one row
after the other; with one, all ROWS are under way at once."""
FEATURE_WARPS = 4
"""Warps of a program that takes a feature: most have few entries, so fewer and wider programs."""
PIECE = 64
"""Entries that one program of `scatter_rows` sums; a feature that has more is split."""


def sum_rows(
    features: ByFeature, values: Float[Tensor, "batch k"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch d"]:
    indices = features.indices
    (batch, k), d = indices.shape, table.shape[1]
    out = table.new_empty(batch, d)
    if batch == 0:  # CUDA refuses an empty grid
        return out
    indices, values, table = indices.contiguous(), values.contiguous(), table.contiguous()
    with torch.cuda.device_of(table):  # Triton launches on the current device, not the tensor's
        blocks = _blocks(table, WARPS)
        grid = (batch, ceil(d / blocks["BLOCK_D"]))
        sum_rows_kernel[grid](indices, values, table, out, k, d, **blocks)
    return out


def dot_rows(
    features: ByFeature, x: Float[Tensor, "batch d"], table: Float[Tensor, "n d"]
) -> Float[Tensor, "batch k"]:
    indices = features.indices
    (batch, k), d = indices.shape, table.shape[1]
    out = table.new_empty(batch, k)
    if batch == 0:
        return out
    indices, x, table = indices.contiguous(), x.contiguous(), table.contiguous()
    with torch.cuda.device_of(table):
        grid = (batch, ceil(k / ROWS))
        dot_rows_kernel[grid](indices, x, table, out, k, d, **_blocks(table, WARPS))
    return out


def scatter_rows(
    features: ByFeature, values: Float[Tensor, "batch k"], x: Float[Tensor, "batch d"]
) -> Float[Tensor, "n d"]:
    d, n_entries = x.shape[1], len(features.entries)
    if n_entries == 0:
        return x.new_zeros(features.n, d)
    x, indices = x.contiguous(), features.indices.contiguous()
    entries, tokens, starts = features.entries, features.tokens, features.starts
    values = values.flatten()[entries]
    out = x.new_empty(features.n, d)
    n_windows = ceil(n_entries / PIECE)
    pieces = x.new_empty(n_windows, d, dtype=torch.float32)
    sizes = (features.n, n_entries, d)
    with torch.cuda.device_of(x):
        blocks = _blocks(x, WARPS)
        grid = (n_windows, ceil(d / blocks["BLOCK_D"]))
        sum_pieces_kernel[grid](
            indices, entries, tokens, starts, values, x, pieces, *sizes, PIECE=PIECE, **blocks
        )
        blocks = _blocks(x, FEATURE_WARPS)
        grid = (features.n, ceil(d / blocks["BLOCK_D"]))
        scatter_rows_kernel[grid](
            tokens, starts, values, x, pieces, out, *sizes, PIECE=PIECE, **blocks
        )
    return out


def _blocks(rows: Tensor, n_warps: int) -> dict[str, Any]:
    """What is compiled into a kernel: blocks so wide that a thread reads 16 bytes of each row."""
    of_warp = 32 * 16 // rows.element_size()
    enough = 1 << (rows.shape[1] - 1).bit_length()  # a block has to be a power of 2
    block = min(n_warps * of_warp, enough)
    return {"ROWS": ROWS, "BLOCK_D": block, "num_warps": max(1, block // of_warp)}


# The kernels. @no_type_check keeps run-time type checkers off functions that Triton has to parse.


@triton.jit
@no_type_check
def sum_rows_kernel(
    indices, values, table, out, k, d, ROWS: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_D], dtype=tl.float32)
    for first in range(0, k, ROWS):
        places = first + tl.arange(0, ROWS)
        features = tl.load(indices + token * k + places, mask=places < k, other=0)
        weights = tl.load(values + token * k + places, mask=places < k, other=0.0)
        total += weighted_sum(table, features, weights, columns, d)
    tl.store(out + token * d + columns, total, mask=columns < d)


@triton.jit
@no_type_check
def dot_rows_kernel(
    indices, x, table, out, k, d, ROWS: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    features = tl.load(indices + token * k + places, mask=places < k, other=0).to(tl.int64)
    total = tl.zeros([ROWS, BLOCK_D], dtype=tl.float32)
    for first in range(0, d, BLOCK_D):
        columns = first + tl.arange(0, BLOCK_D)
        of_x = tl.load(x + token * d + columns, mask=columns < d, other=0.0).to(tl.float32)
        is_inside = (places < k)[:, None] & (columns < d)[None, :]
        rows = tl.load(table + features[:, None] * d + columns[None, :], mask=is_inside, other=0.0)
        total += rows.to(tl.float32) * of_x[None, :]
    tl.store(out + token * k + places, tl.sum(total, axis=1), mask=places < k)


# One feature may be named by every token, and all padding names the same one: summed by a single
# program, they would take longer than all others together. So a feature's entries are cut into
# pieces of PIECE, counted from its start. scatter_rows_kernel sums the first piece of each feature;
# sum_pieces_kernel has summed the later ones, each by the window [i * PIECE, (i + 1) * PIECE) of
# all entries that the piece begins in. No window has two: of one feature they begin PIECE apart,
# and of two features the second's first PIECE entries lie between.


@triton.jit
@no_type_check
def sum_pieces_kernel(
    indices, entries, tokens, starts, values, x, pieces, n, n_entries, d,
    PIECE: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    window = tl.program_id(0).to(tl.int64)
    # Only the feature that lies across the window's start can have a later piece begin in it.
    feature = tl.load(indices + tl.load(entries + window * PIECE)).to(tl.int64)
    start, end = bounds(starts, feature, n, n_entries)
    first = start + tl.cdiv(window * PIECE - start, PIECE) * PIECE
    if (first > start) & (first < end):
        columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        last = tl.minimum(first + PIECE, end)
        total = sum_entries(tokens, values, x, first, last, columns, d, ROWS, BLOCK_D)
        tl.store(pieces + window * d + columns, total, mask=columns < d)


@triton.jit
@no_type_check
def scatter_rows_kernel(
    tokens, starts, values, x, pieces, out, n, n_entries, d,
    PIECE: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    feature = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    start, end = bounds(starts, feature, n, n_entries)
    last = tl.minimum(start + PIECE, end)
    total = sum_entries(tokens, values, x, start, last, columns, d, ROWS, BLOCK_D)
    # Piece c begins at start + c * PIECE, hence in window start // PIECE + c.
    window, n_pieces = start // PIECE, tl.cdiv(end - start, PIECE)
    for first in range(1, n_pieces, ROWS):
        later = first + tl.arange(0, ROWS)
        ones = tl.where(later < n_pieces, 1.0, 0.0)
        total += weighted_sum(pieces, window + later, ones, columns, d)
    tl.store(out + feature * d + columns, total, mask=columns < d)


@triton.jit
@no_type_check
def bounds(starts, feature, n, n_entries):
    """Where the entries of a feature begin and end."""
    end = tl.load(starts + feature + 1, mask=feature + 1 < n, other=n_entries)
    return tl.load(starts + feature), end


@triton.jit
@no_type_check
def sum_entries(
    tokens, values, x, first, last, columns, d, ROWS: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """The sum of value times x over the entries from `first` up to `last`."""
    total = tl.zeros([BLOCK_D], dtype=tl.float32)
    for at in range(first, last, ROWS):
        places = at + tl.arange(0, ROWS)
        rows = tl.load(tokens + places, mask=places < last, other=0)
        weights = tl.load(values + places, mask=places < last, other=0.0)
        total += weighted_sum(x, rows, weights, columns, d)
    return total


@triton.jit
@no_type_check
def weighted_sum(table, rows, weights, columns, d):
    """The weighted sum of rows of a table; one whose weight is 0 is not read."""
    is_read = (weights != 0)[:, None] & (columns < d)[None, :]
    offsets = rows.to(tl.int64)[:, None] * d + columns[None, :]
    read = tl.load(table + offsets, mask=is_read, other=0.0).to(tl.float32)
    return tl.sum(weights.to(tl.float32)[:, None] * read, axis=0)
