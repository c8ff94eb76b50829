"""Stable radix sort of a row, two bits of the key at a time, with 32-bit work only."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from trim_kernels.triton_kernels import load_keys, report


@triton.jit
def load_digits(
    weight,
    column_scale,
    score,
    columns,
    inside,
    bit,
    flag,
    weight_column,
    score_column,
    SCORING: tl.constexpr,
    CHECK: tl.constexpr,
):
    """Two bits of the keys of some columns of a row, from ``bit`` on, and the two after them."""
    offsets = columns.to(tl.int64)
    keys, bad = load_keys(
        weight + offsets * weight_column,
        column_scale + columns,
        score + offsets * score_column,
        inside,
        inside,
        SCORING,
        CHECK,
    )
    if CHECK:
        report(bad & inside, flag)
    digits = keys >> bit
    return digits & 3, (digits >> 2) & 3


@triton.jit
def order_row(
    weight,
    column_scale,
    score,
    order,
    spare,
    flag,
    width,
    weight_row,
    weight_column,
    score_row,
    score_column,
    SCORING: tl.constexpr,
    FIRST_BIT: tl.constexpr,
    CHECK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``order[row] = columns by (key, column)``; one row a program, any width, ``BLOCK`` columns at a time.

    Least digit first, an even number of them: columns move from ``order`` to ``spare`` and back. A column's new place
    is the number of lesser digits in the row plus that of equal digits to its left. The four counts within a block, of
    16 bits each, are scanned in two integers; those of the row are taken while the digit before is sorted.
    """
    row = tl.program_id(0).to(tl.int64)
    weight += row * weight_row
    score += row * score_row
    source = spare + row * width
    target = order + row * width

    zeros = tl.full([], 0, tl.int32)
    ones = tl.full([], 0, tl.int32)
    twos = tl.full([], 0, tl.int32)
    for first in range(0, width, BLOCK):
        place = first + tl.arange(0, BLOCK)
        inside = place < width
        digit, _ = load_digits(
            weight, column_scale, score, place, inside, FIRST_BIT, flag, weight_column, score_column, SCORING, CHECK
        )
        tl.store(target + place, place, mask=inside)
        zeros += tl.sum((inside & (digit == 0)).to(tl.int32))
        ones += tl.sum((inside & (digit == 1)).to(tl.int32))
        twos += tl.sum((inside & (digit == 2)).to(tl.int32))

    for bit in range(FIRST_BIT, 31, 2):
        source, target = target, source
        tl.debug_barrier()
        next_0 = tl.full([], 0, tl.int32)
        next_1 = zeros
        next_2 = zeros + ones
        next_3 = zeros + ones + twos
        zeros = tl.full([], 0, tl.int32)
        ones = tl.full([], 0, tl.int32)
        twos = tl.full([], 0, tl.int32)
        for first in range(0, width, BLOCK):
            place = first + tl.arange(0, BLOCK)
            inside = place < width
            columns = tl.load(source + place, mask=inside, other=0)
            digit, next_digit = load_digits(
                weight, column_scale, score, columns, inside, bit, flag, weight_column, score_column, SCORING, False
            )
            count = tl.where(inside, 1 << ((digit & 1) * 16), 0)
            zeros_and_ones = tl.where(digit < 2, count, 0)
            twos_and_threes = tl.where(digit < 2, 0, count)
            scanned = tl.where(digit < 2, tl.cumsum(zeros_and_ones, axis=0), tl.cumsum(twos_and_threes, axis=0))
            equal = (scanned >> ((digit & 1) * 16)) & 0xFFFF
            start = tl.where(digit < 2, tl.where(digit == 0, next_0, next_1), tl.where(digit == 2, next_2, next_3))
            tl.store(target + start + equal - 1, columns, mask=inside)
            lesser = tl.sum(zeros_and_ones)
            greater = tl.sum(twos_and_threes)
            next_0 += lesser & 0xFFFF
            next_1 += lesser >> 16
            next_2 += greater & 0xFFFF
            next_3 += greater >> 16
            zeros += tl.sum((inside & (next_digit == 0)).to(tl.int32))
            ones += tl.sum((inside & (next_digit == 1)).to(tl.int32))
            twos += tl.sum((inside & (next_digit == 2)).to(tl.int32))
