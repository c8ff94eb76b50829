"""The elimination inside a block of columns."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl


@triton.jit
def eliminate_block(
    weight,
    kept,
    factor,
    errors,
    rows,
    width,
    weight_row,
    weight_column,
    kept_row,
    kept_column,
    factor_row,
    factor_column,
    errors_row,
    errors_column,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Eliminate what is not kept in ``ROWS`` rows, columns from left to right.

    A column that is done holds the error where a weight went, and the weight where it stays.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    place = column.to(tl.int64)[None, :]
    weights = weight + row[:, None] * weight_row + place * weight_column
    goes = tl.load(kept + row[:, None] * kept_row + place * kept_column, mask=inside, other=1) == 0
    values = tl.load(weights, mask=inside, other=0.0)
    for j in range(width):
        of_row = factor + tl.cast(j, tl.int64) * factor_row
        right = (column > j) & (column < width)
        shares = tl.load(of_row + column.to(tl.int64) * factor_column, mask=right, other=0.0)
        pivot = tl.load(of_row + tl.cast(j, tl.int64) * factor_column)
        # Of one value and zeros, the sum is that value.
        now = goes & (column == j)[None, :]
        error = tl.div_rn(tl.sum(tl.where(now, values, 0.0), 1), pivot)
        values = tl.where(now, error[:, None], values - error[:, None] * shares[None, :])
    tl.store(weights, tl.where(goes, 0.0, values), mask=inside)
    out = errors + row[:, None] * errors_row + place * errors_column
    tl.store(out, tl.where(goes, values, 0.0), mask=inside)
