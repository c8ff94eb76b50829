"""Row-wise selection: keys of a row in registers, the threshold by counting, the result from the same registers."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from trim_kernels.triton_kernels import (
    KEY_INFINITY,
    KEY_MAX,
    goes,
    load_keys,
    narrowed,
    next_pivot,
    packed_bits,
    report,
    threshold_of_keys,
)

THRESHOLD = tl.constexpr(0)
MASK = tl.constexpr(1)
PACKED_MASK = tl.constexpr(2)
IN_PLACE = tl.constexpr(3)


@triton.jit
def load_row_keys(
    weight,
    column_scale,
    score,
    columns,
    width,
    weight_column,
    score_column,
    SCORING: tl.constexpr,
    CHECK: tl.constexpr,
):
    """Keys of the given columns of one row, and which are bad."""
    inside = columns < width
    offsets = columns.to(tl.int64)
    return load_keys(
        weight + offsets * weight_column,
        column_scale + columns,
        score + offsets * score_column,
        inside,
        inside,
        SCORING,
        CHECK,
    )


@triton.jit
def store_result(out, keys, columns, first, width, key, column, out_column, OUTPUT: tl.constexpr, BLOCK: tl.constexpr):
    """Write what a threshold says about ``BLOCK`` weights from column ``first`` on, as ``OUTPUT`` asks."""
    drop = goes(keys, columns, key, column)
    inside = columns < width
    if OUTPUT == MASK:
        tl.store(out + columns, (~drop).to(tl.uint8), mask=inside)
    if OUTPUT == PACKED_MASK:
        place = first // 8 + tl.arange(0, BLOCK // 8)
        tl.store(out + place, packed_bits(inside & ~drop, BLOCK), mask=place < (width + 7) // 8)
    if OUTPUT == IN_PLACE:
        pointers = out + columns.to(tl.int64) * out_column
        tl.store(pointers, tl.where(drop, 0, tl.load(pointers, mask=inside, other=0)), mask=inside)


@triton.jit
def select_row(
    weight,
    column_scale,
    score,
    prune_count,
    threshold_key,
    threshold_column,
    out,
    flag,
    width,
    weight_row,
    weight_column,
    score_row,
    score_column,
    out_row,
    out_column,
    SCORING: tl.constexpr,
    ZERO_BITS: tl.constexpr,
    OUTPUT: tl.constexpr,
    CHECK: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One row a program: its threshold, its mask (bytes or bits), or the row itself with the pruned weights zero.

    ``threshold = (key, column) of the weight with prune_count others before it``; (KEY_MAX, C) when none stays.
    The result comes from the keys in registers, or where these fill them, from a second read, ``CHUNK`` at a time.
    """
    row = tl.program_id(0).to(tl.int64)
    weight += row * weight_row
    score += row * score_row
    out += row * out_row
    count = tl.load(prune_count + row)
    columns = tl.arange(0, BLOCK)
    WHOLE: tl.constexpr = CHUNK == BLOCK  # noqa: N806
    keys, bad = load_row_keys(
        weight, column_scale, score, columns, width, weight_column, score_column, SCORING, CHECK and WHOLE
    )
    if CHECK:
        report(bad | (count < 0) | (count > width), flag)
    key, column = threshold_of_keys(keys, columns, count, width, ZERO_BITS)
    if OUTPUT == THRESHOLD:
        tl.store(threshold_key + row, key)
        tl.store(threshold_column + row, column)
    elif WHOLE:
        store_result(out, keys, columns, 0, width, key, column, out_column, OUTPUT, BLOCK)
    if not WHOLE and (CHECK or OUTPUT != THRESHOLD):
        for first in range(0, width, CHUNK):
            some = first + tl.arange(0, CHUNK)
            some_keys, some_bad = load_row_keys(
                weight, column_scale, score, some, width, weight_column, score_column, SCORING, CHECK
            )
            if CHECK:
                report(some_bad, flag)
            if OUTPUT != THRESHOLD:
                store_result(out, some_keys, some, first, width, key, column, out_column, OUTPUT, CHUNK)


@triton.jit
def count_before(
    weight,
    column_scale,
    score,
    width,
    weight_column,
    score_column,
    key,
    column,
    SCORING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """How many weights of a row come before the threshold, and the next key and column from it on (two minima)."""
    before = tl.zeros([BLOCK], tl.int32)
    next_key = tl.full([BLOCK], KEY_MAX, tl.int32)
    next_column = tl.full([BLOCK], KEY_MAX, tl.int32)
    for first in range(0, width, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        keys, _ = load_row_keys(
            weight, column_scale, score, columns, width, weight_column, score_column, SCORING, False
        )
        before += goes(keys, columns, key, column).to(tl.int32)
        next_key = tl.minimum(next_key, tl.where(keys >= key, keys, KEY_MAX))
        equal = (keys == key) & (columns >= column)
        next_column = tl.minimum(next_column, tl.where(equal, columns, KEY_MAX))
    return tl.sum(before), tl.min(next_key), tl.min(next_column)


@triton.jit
def select_wide_row(
    weight,
    column_scale,
    score,
    prune_count,
    threshold_key,
    threshold_column,
    flag,
    width,
    weight_row,
    weight_column,
    score_row,
    score_column,
    SCORING: tl.constexpr,
    CHECK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The threshold of a row of any width, which is read again for every count: first its key, then its column."""
    row = tl.program_id(0).to(tl.int64)
    weight += row * weight_row
    score += row * score_row
    count = tl.load(prune_count + row)
    if CHECK:
        for first in range(0, width, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            _, bad = load_row_keys(
                weight, column_scale, score, columns, width, weight_column, score_column, SCORING, True
            )
            report(bad | (count < 0) | (count > width), flag)
    rank = tl.minimum(tl.maximum(count, 0), width - 1)

    low = tl.full([], 0, tl.int32)
    high = tl.full([], KEY_INFINITY + 1, tl.int32)
    below_low = tl.full([], 0, tl.int32)
    below_high = width
    step = tl.full([], 0, tl.int32)
    while (high - low > 1) & (below_low != rank):
        pivot = next_pivot(low, high, below_low, below_high, rank, step)
        below, _, _ = count_before(
            weight, column_scale, score, width, weight_column, score_column, pivot, 0, SCORING, BLOCK
        )
        low, high, below_low, below_high = narrowed(low, high, below_low, below_high, rank, pivot, below)
        step += 1
    _, key, _ = count_before(weight, column_scale, score, width, weight_column, score_column, low, 0, SCORING, BLOCK)

    first_column = tl.full([], 0, tl.int32)
    last_column = width
    while (last_column - first_column > 1) & (below_low != rank):
        pivot = next_pivot(first_column, last_column, below_low, below_high, rank, step)
        below, _, _ = count_before(
            weight, column_scale, score, width, weight_column, score_column, key, pivot, SCORING, BLOCK
        )
        first_column, last_column, below_low, below_high = narrowed(
            first_column, last_column, below_low, below_high, rank, pivot, below
        )
        step += 1
    _, _, column = count_before(
        weight, column_scale, score, width, weight_column, score_column, key, first_column, SCORING, BLOCK
    )

    nothing_stays = count >= width
    tl.store(threshold_key + row, tl.where(nothing_stays, KEY_MAX, key))
    tl.store(threshold_column + row, tl.where(nothing_stays, width, column))


@triton.jit
def apply_threshold(
    weight,
    column_scale,
    score,
    threshold_key,
    threshold_column,
    out,
    width,
    weight_row,
    weight_column,
    score_row,
    score_column,
    out_row,
    out_column,
    SCORING: tl.constexpr,
    OUTPUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What known thresholds say about ``BLOCK`` columns of a row: mask, packed mask, or pruned in place."""
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    columns = first + tl.arange(0, BLOCK)
    keys, _ = load_row_keys(
        weight + row * weight_row,
        column_scale,
        score + row * score_row,
        columns,
        width,
        weight_column,
        score_column,
        SCORING,
        False,
    )
    key = tl.load(threshold_key + row)
    column = tl.load(threshold_column + row)
    store_result(out + row * out_row, keys, columns, first, width, key, column, out_column, OUTPUT, BLOCK)
