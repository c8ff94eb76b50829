"""row_threshold in Triton, and the selection that row_mask and prune_rows_ share with it."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.ops.row_threshold import reference
from trim_kernels.scoring import apart
from trim_kernels.triton_common import refusal as refusal

WIDEST_IN_REGISTERS = 32_768
WIDE_BLOCK, WIDE_WARPS = 4096, 16
APPLY_BLOCK = 4096
LONG_COLUMNS, FEW_ROWS = 131_072, 32
"""No more rows than these, that are as long, are torch's to sort: one program a row would leave the device idle. It
takes some 28 bytes of memory a weight."""


def row_threshold(
    weight: Tensor, prune_count: Tensor, column_scale: Tensor | None, score: Tensor | None, check_values: bool
) -> tuple[Tensor, Tensor]:
    return thresholds(weight, prune_count, column_scale, score, check_values)


def thresholds(
    weight: Tensor, prune_count: Tensor, column_scale: Tensor | None, score: Tensor | None, check_values: bool
) -> tuple[Tensor, Tensor]:
    """Threshold (key, column) of every row, int32 [R]."""
    from trim_kernels.ops.row_threshold import triton_kernels as kernels

    rows, width = weight.shape
    if width <= WIDEST_IN_REGISTERS:
        return _select(kernels.THRESHOLD.value, weight, prune_count, column_scale, score, None, check_values)
    if width >= LONG_COLUMNS and rows <= FEW_ROWS:
        # Counts that nobody checks must not become indices beyond the row.
        counts = prune_count if check_values else prune_count.clamp(0, width)
        return reference.row_threshold(weight, counts, column_scale, score, check_values)
    key, column = prune_count.new_empty(rows), prune_count.new_empty(rows)
    bad = common.BadValues(weight.device)
    if rows:
        with common.on_device(weight):
            kernels.select_wide_row[(rows,)](
                prune_count=prune_count.contiguous(),
                threshold_key=key,
                threshold_column=column,
                flag=bad.flag,
                width=width,
                CHECK=check_values,
                BLOCK=WIDE_BLOCK,
                num_warps=WIDE_WARPS,
                **common.scoring_arguments(weight, column_scale, score),
            )
    if check_values:
        bad.require_none(weight, column_scale, score, prune_count)
    return key, column


def select_mask(
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    mask: Tensor,
    packed: bool,
    check_values: bool,
) -> None:
    """Write the keep mask: uint8 [R, C] of 0 and 1, or ``packed``."""
    from trim_kernels.ops.row_threshold import triton_kernels as kernels

    output = kernels.PACKED_MASK.value if packed else kernels.MASK.value
    if weight.shape[1] <= WIDEST_IN_REGISTERS:
        _select(output, weight, prune_count, column_scale, score, mask, check_values)
        return
    key, column = thresholds(weight, prune_count, column_scale, score, check_values)
    _apply(output, weight, key, column, column_scale, score, mask)


def prune(
    weight: Tensor, prune_count: Tensor, column_scale: Tensor | None, score: Tensor | None, check_values: bool
) -> None:
    """Zero the lowest scores; after an error nothing has changed."""
    from trim_kernels.ops.row_threshold import triton_kernels as kernels

    column_scale, score = apart(column_scale, weight), apart(score, weight)
    out = common.as_integers(weight)
    if not check_values and weight.shape[1] <= WIDEST_IN_REGISTERS:
        _select(kernels.IN_PLACE.value, weight, prune_count, column_scale, score, out, check_values)
        return
    key, column = thresholds(weight, prune_count, column_scale, score, check_values)
    _apply(kernels.IN_PLACE.value, weight, key, column, column_scale, score, out)


def _select(
    output: int,
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    out: Tensor | None,
    check_values: bool,
) -> tuple[Tensor, Tensor]:
    from trim_kernels.ops.row_threshold import triton_kernels as kernels

    rows, width = weight.shape
    key, column = (prune_count.new_empty(rows) if out is None else prune_count for _ in range(2))
    bad = common.BadValues(weight.device) if check_values else None
    scoring = common.scoring_arguments(weight, column_scale, score)
    block = max(16, common.power_of_two(width))
    if rows:
        with common.on_device(weight):
            kernels.select_row[(rows,)](
                prune_count=prune_count.contiguous(),
                threshold_key=key,
                threshold_column=column,
                out=key if out is None else out,
                flag=prune_count if bad is None else bad.flag,
                width=width,
                out_row=0 if out is None else out.stride(0),
                out_column=0 if out is None else out.stride(1),
                ZERO_BITS=common.zero_bits(weight, scoring["SCORING"]),
                OUTPUT=output,
                CHECK=check_values,
                BLOCK=block,
                CHUNK=select_chunk(block),
                num_warps=select_warps(block),
                **scoring,
            )
    if bad is not None:
        bad.require_none(weight, column_scale, score, prune_count)
    return key, column


def select_warps(block: int) -> int:
    """Warps for a row of ``block`` keys: 32 keys a thread."""
    return max(1, block // 1024)


def select_chunk(block: int) -> int:
    """How many keys the result is made of at a time: all, unless threads have too few registers for both."""
    return block if block <= 16_384 else 4096


def _apply(
    output: int,
    weight: Tensor,
    key: Tensor,
    column: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    out: Tensor,
) -> None:
    from trim_kernels.ops.row_threshold import triton_kernels as kernels

    rows, width = weight.shape
    block = min(APPLY_BLOCK, max(16, common.power_of_two(width)))
    if rows:
        with common.on_device(weight):
            kernels.apply_threshold[(rows, common.cdiv(width, block))](
                threshold_key=key,
                threshold_column=column,
                out=out,
                width=width,
                out_row=out.stride(0),
                out_column=out.stride(1),
                OUTPUT=output,
                BLOCK=block,
                **common.scoring_arguments(weight, column_scale, score),
            )
