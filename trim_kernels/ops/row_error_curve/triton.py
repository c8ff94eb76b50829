"""row_error_curve in Triton: what goes before each weight, by comparing ranks; all else is plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.ops.row_order.triton import row_order
from trim_kernels.scoring import require_finite, require_finite_tensor, require_no_overflow
from trim_kernels.triton_common import refusal as refusal

TILE_VALUES = 1 << 23
"""Weights of a tile of rows, with some 60 bytes of scratch each."""
BLOCK_ROWS, BLOCK_COLUMNS, DEPTH = 16, 128, 64
WARPS = 4


def row_error_curve(
    weight: Tensor,
    gram: Tensor,
    first_count: int,
    last_count: int,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> Tensor:
    if check_values:
        require_finite(weight, column_scale, score)
        require_finite_tensor("gram", gram)
    rows, width = weight.shape
    curve = torch.empty((rows, last_count - first_count + 1), dtype=torch.float32, device=weight.device)
    products, squares = gram.contiguous(), gram.diagonal().to(torch.float64)
    step = max(BLOCK_ROWS, TILE_VALUES // width)
    for start in range(0, rows, step):
        tile = slice(start, start + step)
        scores = None if score is None else score[tile]
        order = row_order(weight[tile], column_scale, scores, check_values=False).long()
        values = weight[tile].to(torch.float32)
        growth = values * (2 * _sums_before(values, order, products) + values * squares)
        errors = growth.gather(1, order[:, :last_count]).cumsum(1)
        curve[tile] = torch.cat([torch.zeros_like(errors[:, :1]), errors], dim=1)[:, first_count:]
    if check_values:
        require_no_overflow(curve, read="gram")
    return curve


def _sums_before(values: Tensor, order: Tensor, gram: Tensor) -> Tensor:
    """``sum over columns j that go before u of values[i, j] * gram[j, u]``; float64 [R, C]."""
    from trim_kernels.ops.row_error_curve.triton_kernels import sum_before

    rows, width = values.shape
    places = torch.arange(width, dtype=torch.int32, device=values.device).expand_as(order)
    rank = torch.empty_like(places, memory_format=torch.contiguous_format).scatter_(1, order, places)
    sums = torch.empty(values.shape, dtype=torch.float64, device=values.device)
    grid = (common.cdiv(rows, BLOCK_ROWS), common.cdiv(width, BLOCK_COLUMNS))
    with common.on_device(values):
        sum_before[grid](
            values=values.t().contiguous(),
            rank=rank.t().contiguous(),
            gram=gram,
            sums=sums,
            rows=rows,
            width=width,
            DEPTH=DEPTH,
            BLOCK_ROWS=BLOCK_ROWS,
            BLOCK_COLUMNS=BLOCK_COLUMNS,
            num_warps=WARPS,
        )
    return sums
