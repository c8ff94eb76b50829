"""Sums of squares of the columns of activations."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from trim_kernels.triton_kernels import as_float32


@triton.jit
def sum_squares(
    x,
    token_mask,
    partial,
    tokens,
    width,
    tokens_per_part,
    x_row,
    x_column,
    MASKED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """``partial[part, c] = sum of x[t, c]^2`` over the part's tokens that count, in float64; [parts, C]."""
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = columns < width
    part = tl.program_id(1).to(tl.int64)
    start = part * tokens_per_part
    end = tl.minimum(start + tokens_per_part, tokens)
    x_columns = x + columns.to(tl.int64)[None, :] * x_column
    sums = tl.zeros([BLOCK_TOKENS, BLOCK_COLUMNS], tl.float64)
    for first in range(0, tokens_per_part, BLOCK_TOKENS):
        token = start + first + tl.arange(0, BLOCK_TOKENS)
        counts = token < end
        if MASKED:
            counts = counts & (tl.load(token_mask + token, mask=counts, other=0) != 0)
        loaded = tl.load(x_columns + token[:, None] * x_row, mask=counts[:, None] & inside[None, :], other=0)
        value = as_float32(loaded).to(tl.float64)
        sums += value * value
    tl.store(partial + part * width + columns, tl.sum(sums, axis=0), mask=inside)
