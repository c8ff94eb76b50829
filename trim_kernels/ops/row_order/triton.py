"""row_order in Triton: a radix sort of each row, any width."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.triton_common import refusal as refusal

BLOCK = 2048
WARPS = 8


def row_order(weight: Tensor, column_scale: Tensor | None, score: Tensor | None, check_values: bool) -> Tensor:
    from trim_kernels.ops.row_order.triton_kernels import order_row

    rows, width = weight.shape
    order = torch.empty((rows, width), dtype=torch.int32, device=weight.device)
    bad = common.BadValues(weight.device) if check_values else None
    scoring = common.scoring_arguments(weight, column_scale, score)
    if rows:
        with common.on_device(weight):
            order_row[(rows,)](
                order=order,
                spare=torch.empty_like(order),
                flag=order if bad is None else bad.flag,
                width=width,
                CHECK=check_values,
                BLOCK=min(BLOCK, max(16, common.power_of_two(width))),
                FIRST_BIT=first_bit(common.zero_bits(weight, scoring["SCORING"])),
                num_warps=WARPS,
                **scoring,
            )
    if bad is not None:
        bad.require_none(weight, column_scale, score)
    return order


def first_bit(zero_bits: int) -> int:
    """Where the lowest digit of two bits begins, such that an even number of digits covers the 31 bits of a key."""
    digits = -(-(31 - zero_bits) // 2)
    return 32 - 2 * (digits + digits % 2)
