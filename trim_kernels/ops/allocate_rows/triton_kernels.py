"""From prune counts to row thresholds, by the order of each row."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from trim_kernels.triton_kernels import KEY_MAX, load_keys


@triton.jit
def look_up_thresholds(
    weight,
    column_scale,
    score,
    order,
    prune_count,
    threshold_key,
    threshold_column,
    rows,
    width,
    weight_row,
    weight_column,
    score_row,
    score_column,
    SCORING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``column = order[row, prune_count]`` and its key, for ``BLOCK`` rows of one chain; (KEY_MAX, C) at the end."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    at = tl.program_id(1).to(tl.int64) * rows + row
    count = tl.load(prune_count + at, mask=inside, other=0)
    something_stays = inside & (count < width)
    column = tl.load(order + row * width + count, mask=something_stays, other=0).to(tl.int32)
    offset = column.to(tl.int64)
    key, _ = load_keys(
        weight + row * weight_row + offset * weight_column,
        column_scale + column,
        score + row * score_row + offset * score_column,
        something_stays,
        something_stays,
        SCORING,
        False,
    )
    tl.store(threshold_key + at, tl.where(something_stays, key, KEY_MAX), mask=inside)
    tl.store(threshold_column + at, tl.where(something_stays, column, width), mask=inside)
