"""The Gram matrix of activations, added to what is there."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from trim_kernels.triton_kernels import as_float32


@triton.jit
def add_gram_tile(
    acc,
    x,
    token_mask,
    tokens,
    width,
    acc_row,
    acc_column,
    x_row,
    x_column,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """One tile of ``acc[i, j] += sum of x[t, i] * x[t, j]`` over tokens that count, for ``j <= i``.

    Only this program touches the tile. Products are accumulated in float32, token by token in order.
    """
    if tl.program_id(1) > tl.program_id(0):
        return
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    i_inside, j_inside = i < width, j < width
    x_i = x + i.to(tl.int64)[None, :] * x_column
    x_j = x + j.to(tl.int64)[None, :] * x_column
    sums = tl.zeros([BLOCK, BLOCK], tl.float32)
    for first in range(0, tokens, BLOCK_TOKENS):
        token = first + tl.arange(0, BLOCK_TOKENS)
        counts = token < tokens
        if MASKED:
            counts = counts & (tl.load(token_mask + token, mask=counts, other=0) != 0)
        rows = token.to(tl.int64)[:, None] * x_row
        left = tl.load(x_i + rows, mask=counts[:, None] & i_inside[None, :], other=0)
        right = tl.load(x_j + rows, mask=counts[:, None] & j_inside[None, :], other=0)
        sums = tl.dot(tl.trans(as_float32(left)), as_float32(right), sums, input_precision="ieee")
    lower = i_inside[:, None] & j_inside[None, :] & (j[None, :] <= i[:, None])
    at = acc + i.to(tl.int64)[:, None] * acc_row + j.to(tl.int64)[None, :] * acc_column
    tl.store(at, tl.load(at, mask=lower, other=0.0) + sums, mask=lower)
