"""Counting the bits of masks, and moving values between a row of weights and the vector of those that are kept."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl


@triton.jit
def bits_of_row(kept, row, column, width, bytes_of_row):
    """Bit 1 where a column of the row is kept; 0 beyond the row."""
    byte = tl.load(kept + row * bytes_of_row + column // 8, mask=column < width, other=0)
    return (byte.to(tl.int32) >> (column % 8)) & 1


@triton.jit
def count_row(kept, counts, width, bytes_of_row, BLOCK: tl.constexpr):
    """How many weights of a row are kept, at the place after the row's own."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), dtype=tl.int32)
    for first in range(0, width, BLOCK):
        total += bits_of_row(kept, row, first + tl.arange(0, BLOCK), width, bytes_of_row)
    tl.store(counts + row + 1, tl.sum(total, 0).to(tl.int64))


@triton.jit
def move_row(
    weight,
    kept,
    values,
    starts,
    width,
    bytes_of_row,
    weight_row,
    weight_column,
    PACK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Move a row's kept weights to their values (``PACK``), or values to their places among zeros."""
    row = tl.program_id(0).to(tl.int64)
    start = tl.load(starts + row)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)
        bit = bits_of_row(kept, row, column, width, bytes_of_row)
        stays = bit == 1
        value = values + start + (tl.cumsum(bit, 0) - bit)
        place = weight + row * weight_row + column.to(tl.int64) * weight_column
        if PACK:
            tl.store(value, tl.load(place, mask=stays, other=0), mask=stays)
        else:
            tl.store(place, tl.load(value, mask=stays, other=0), mask=column < width)
        start += tl.sum(bit, 0)
