"""row_order on CUDA: radix sort of each row by one block, in shared memory where it fits."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import scored, unit_stride
from trim_kernels.cuda import refusal as refusal

SHORT_COLUMNS = 65536
"""Up to so many columns allocate_rows keeps an order in 2 bytes per column."""


def row_order(weight: Tensor, column_scale: Tensor | None, score: Tensor | None, check_values: bool) -> Tensor:
    bad = cuda.value_flag(weight, column_scale, check_values)
    order = order_rows(unit_stride(weight), column_scale, score, torch.int32, bad)
    cuda.require_good(bad, weight, column_scale, score)
    return order


def order_rows(
    weight: Tensor, column_scale: Tensor | None, score: Tensor | None, dtype: torch.dtype, bad: Tensor | None
) -> Tensor:
    """The order of a weight with unit column stride: int32, or int16 whose bits are to be read as uint16."""
    rows, columns = weight.shape
    order = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    scratch_bytes = cuda.size("row_order_scratch", rows, columns, weight.device.index or 0)
    scratch = torch.empty(scratch_bytes, dtype=torch.uint8, device=weight.device)
    matrix = scored(weight, column_scale, score)
    cuda.call("row_order", weight.device, matrix, order, order.element_size(), scratch, bad=bad)
    return order
