"""Products with the Gram matrix in which only weights that go before another one count."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl


@triton.jit
def sum_before(
    values,
    rank,
    gram,
    sums,
    rows,
    width,
    DEPTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """``sums[i, u] = sum of values[j, i] * gram[j, u]`` over the columns j with ``rank[j, i] < rank[u, i]``.

    ``values`` and ``rank`` are [columns, rows], so that the rows of a program lie side by side. Sums of ``DEPTH``
    columns are taken in float32, and joined in float64.
    """
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    row_inside, column_inside = row < rows, column < width
    inside = row_inside[:, None] & column_inside[None, :]
    own_rank = tl.load(rank + column.to(tl.int64)[None, :] * rows + row[:, None], mask=inside, other=0)
    value_at, rank_at, gram_at = values + row, rank + row, gram + column
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float64)
    for first in range(0, width, DEPTH):
        part = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
        for _ in range(first, tl.minimum(first + DEPTH, width)):
            value = tl.load(value_at, mask=row_inside, other=0.0)
            before = tl.load(rank_at, mask=row_inside, other=0)
            product = value[:, None] * tl.load(gram_at, mask=column_inside, other=0.0)[None, :]
            part += tl.where(before[:, None] < own_rank, product, 0.0)
            value_at += rows
            rank_at += rows
            gram_at += width
        total += part.to(tl.float64)
    tl.store(sums + row.to(tl.int64)[:, None] * width + column[None, :], total, mask=inside)
