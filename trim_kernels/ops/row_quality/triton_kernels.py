"""Row statistics of a product of which nothing is stored: the masked operand is made in registers."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from trim_kernels.triton_kernels import as_float32, goes


@triton.jit
def as_operand(loaded, NATIVE: tl.constexpr):
    """What was loaded, as an operand of a product: as it is (int16 are bits of bfloat16), or as float32."""
    if NATIVE:
        operand = loaded
        if loaded.dtype == tl.int16:
            operand = loaded.to(tl.bfloat16, bitcast=True)
    else:
        operand = as_float32(loaded)
    return operand


@triton.jit
def products_of(
    begin,
    end,
    weight_rows,
    weight_column,
    column_scale,
    score_rows,
    score_column,
    input_tokens,
    inputs_row,
    token_inside,
    key,
    column,
    width,
    SCORING: tl.constexpr,
    DROPPED: tl.constexpr,
    NATIVE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """The outputs [BLOCK_ROWS, BLOCK_TOKENS] of the columns from ``begin`` to ``end``, in float32."""
    outputs = tl.zeros([BLOCK_ROWS, BLOCK_TOKENS], tl.float32)
    for first in range(begin, end, BLOCK_COLUMNS):
        columns = first + tl.arange(0, BLOCK_COLUMNS)
        inside = columns < width
        offsets = columns.to(tl.int64)
        loaded = tl.load(weight_rows + offsets[None, :] * weight_column, mask=inside[None, :], other=0)
        if DROPPED:
            if SCORING == 2:
                score_tile = tl.load(score_rows + offsets[None, :] * score_column, mask=inside[None, :], other=0)
                magnitude = tl.abs(score_tile)
            else:
                magnitude = tl.abs(as_float32(loaded))
            if SCORING == 1:
                magnitude = magnitude * tl.abs(tl.load(column_scale + columns, mask=inside, other=0))[None, :]
            drop = goes(magnitude.to(tl.int32, bitcast=True), columns[None, :], key, column)
            loaded = tl.where(drop, loaded, tl.zeros_like(loaded))
        tile_of_inputs = tl.load(
            input_tokens + offsets[:, None] * inputs_row, mask=inside[:, None] & token_inside[None, :], other=0
        )
        outputs = tl.dot(
            as_operand(loaded, NATIVE), as_operand(tile_of_inputs, NATIVE), outputs, input_precision="ieee"
        )
    return outputs


@triton.jit
def product_statistics(
    weight,
    column_scale,
    score,
    inputs,
    threshold_key,
    threshold_column,
    dense,
    square,
    other,
    rows,
    width,
    tokens,
    chains,
    weight_row,
    weight_column,
    score_row,
    score_column,
    inputs_row,
    inputs_column,
    SCORING: tl.constexpr,
    DROPPED: tl.constexpr,
    NATIVE: tl.constexpr,
    STRETCH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Statistics over one tile of rows and tokens, of one chain of thresholds.

    Dense: ``y = weight @ inputs`` goes to ``dense`` float32 [R, N], ``sum y^2`` to ``square`` and ``max |y|`` to
    ``other``. ``DROPPED``: ``e = (weight where pruned, else 0) @ inputs`` is never stored; ``sum e^2`` goes to
    ``square`` and ``sum y e``, with y from ``dense``, to ``other``. Both are [chains, token tiles, R], summed elsewhere
    in a fixed order. Products are accumulated in float32, statistics in float64. Tensor cores cut off what they add up,
    toward zero: with ``STRETCH`` the sums of so many columns at a time are added up elsewhere.
    """
    # Programs that run side by side share their weights: chains first, then tokens.
    chain = (tl.program_id(0) % chains).to(tl.int64)
    tile = tl.program_id(0) // chains
    token_tiles = tl.cdiv(tokens, BLOCK_TOKENS)
    token_tile = tile % token_tiles
    row = (tile // token_tiles) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    token = token_tile * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    row_inside = row < rows
    token_inside = token < tokens
    # Rows outside repeat the last one; what comes of them is not stored.
    safe_row = tl.minimum(row, rows - 1).to(tl.int64)
    weight_rows = weight + safe_row[:, None] * weight_row
    score_rows = score + safe_row[:, None] * score_row
    input_tokens = inputs + token.to(tl.int64)[None, :] * inputs_column
    key, column = rows, rows  # not looked at
    if DROPPED:
        key = tl.load(threshold_key + chain * rows + safe_row)[:, None]
        column = tl.load(threshold_column + chain * rows + safe_row)[:, None]

    if STRETCH:
        outputs = tl.zeros([BLOCK_ROWS, BLOCK_TOKENS], tl.float32)
        for begin in range(0, width, STRETCH):
            outputs += products_of(
                begin,
                tl.minimum(begin + STRETCH, width),
                weight_rows,
                weight_column,
                column_scale,
                score_rows,
                score_column,
                input_tokens,
                inputs_row,
                token_inside,
                key,
                column,
                width,
                SCORING,
                DROPPED,
                NATIVE,
                BLOCK_ROWS,
                BLOCK_TOKENS,
                BLOCK_COLUMNS,
            )
    else:
        outputs = products_of(
            0,
            width,
            weight_rows,
            weight_column,
            column_scale,
            score_rows,
            score_column,
            input_tokens,
            inputs_row,
            token_inside,
            key,
            column,
            width,
            SCORING,
            DROPPED,
            NATIVE,
            BLOCK_ROWS,
            BLOCK_TOKENS,
            BLOCK_COLUMNS,
        )

    both_inside = row_inside[:, None] & token_inside[None, :]
    at = dense + safe_row[:, None] * tokens + token[None, :]
    exact = outputs.to(tl.float64)
    place = (chain * token_tiles + token_tile) * rows + safe_row
    tl.store(square + place, tl.sum(exact * exact, axis=1), mask=row_inside)
    if DROPPED:
        y = tl.load(at, mask=both_inside, other=0.0).to(tl.float64)
        tl.store(other + place, tl.sum(exact * y, axis=1), mask=row_inside)
    else:
        tl.store(at, outputs, mask=both_inside)
        tl.store(other + place, tl.max(tl.abs(outputs), axis=1).to(tl.float64), mask=row_inside)
